"""Checkpoints and training states with bits and fields changed: what was saved comes back, or one kind of error."""

import io
import os
import pickle
import pickletools
import random
import socket
import struct
import zipfile

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from basicsr.runs.checkpoint import load_checkpoint, save_checkpoint
from basicsr.runs.resume import load_resume_state
from basicsr.runs.training_state import load_training_state
from basicsr.utils.misc import get_random_state

CONTENT = {
    'params': {'conv.weight': torch.arange(12.0).view(3, 4), 'conv.bias': torch.tensor([1, 2, 3])},
    'half': torch.ones(2, 3, dtype=torch.float16).t(),
    'iter': 4,
    'others': [1.5, None, True, 'word', (2, 3)],
}


def saved(content, **how) -> bytes:
    stream = io.BytesIO()
    torch.save(content, stream, **how)
    return stream.getvalue()


GOOD = saved(CONTENT)


def entries(archive: bytes) -> dict[str, bytes]:
    with zipfile.ZipFile(io.BytesIO(archive)) as read:
        return {name: read.read(name) for name in read.namelist()}


def archive_of(files: dict[str, bytes], method: int = zipfile.ZIP_STORED) -> bytes:
    """An archive whose checksums are right."""
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, 'w', method) as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return stream.getvalue()


def read(content: bytes, path):
    """What is read of a file with these bytes, or None where it is refused; every other error is a failure."""
    path.write_bytes(content)
    try:
        return load_checkpoint(path)
    except ValueError as error:
        assert str(error).startswith(f'{path} is no ')
        return None


def assert_as_it_was(found, at) -> None:
    assert repr(found) == repr(CONTENT), at
    assert found['half'].dtype == torch.float16 and found['params']['conv.bias'].dtype == torch.int64, at


def test_every_bit_of_the_structure_and_some_of_the_values(tmp_path):
    """A bit of the directory's attributes makes torch read a tensor as other memory: refused, too."""
    directory, rng = GOOD.index(b'PK\x01\x02'), random.Random(0)
    bits = [(place, bit) for place in range(directory, len(GOOD)) for bit in rng.sample(range(8), 2)]
    bits += [(place, rng.randrange(8)) for place in [*range(60), *rng.sample(range(60, directory), 300)]]
    bits += [(at + 38, 4) for at in range(directory, len(GOOD)) if GOOD[at : at + 4] == b'PK\x01\x02']
    read_as_it_was = 0
    for place, bit in bits:
        changed = bytearray(GOOD)
        changed[place] ^= 1 << bit
        found = read(bytes(changed), tmp_path / 'x.pth')
        if found is not None:
            assert_as_it_was(found, (place, bit))
            read_as_it_was += 1
    assert 0 < read_as_it_was < len(bits) / 2, 'times of files and padding carry nothing'


def test_every_length(tmp_path):
    for length in range(0, len(GOOD), 7):
        assert read(GOOD[:length], tmp_path / 'x.pth') is None, length


@settings(max_examples=150, deadline=None)
@given(
    place=st.integers(0, len(GOOD) - 1),
    put=st.one_of(st.binary(min_size=1, max_size=12), st.integers(0, 2**32 - 1).map(lambda n: struct.pack('<I', n))),
    insert=st.booleans(),
)
def test_bytes_anywhere(tmp_path_factory, place, put, insert):
    changed = GOOD[:place] + put + GOOD[place + (0 if insert else len(put)) :]
    found = read(changed, tmp_path_factory.getbasetemp() / 'any.pth')
    if found is not None:
        assert_as_it_was(found, (place, put))


def test_headers_fields(tmp_path):
    """Every field of 16 bits in the directory and at the end, at its ends."""
    for place in range(GOOD.index(b'PK\x01\x02'), len(GOOD) - 1):
        for value in (0, 0xFFFF):
            found = read(GOOD[:place] + struct.pack('<H', value) + GOOD[place + 2 :], tmp_path / 'x.pth')
            if found is not None:
                assert_as_it_was(found, (place, value))


@pytest.mark.parametrize(
    'entry', ['byteorder', 'version', '.format_version', '.storage_alignment', 'data/0', 'data.pkl']
)
@pytest.mark.parametrize('value', [b'', b'\0', b'big', b'-1', b'99999999999999999999', b'\xff\xfe', bytes(1000)])
def test_entries_with_other_contents_and_right_checksums(tmp_path, entry, value):
    files = entries(GOOD)
    folder = next(iter(files)).partition('/')[0]
    found = read(archive_of({**files, f'{folder}/{entry}': value}), tmp_path / 'x.pth')
    if found is not None and entry not in ('byteorder', 'data/0'):
        assert_as_it_was(found, entry)
    if entry == 'data.pkl' or (entry == 'data/0' and len(value) < 48):
        assert found is None


def test_opcodes_with_right_checksums(tmp_path):
    """Each byte of the pickle, changed in some ways: never a crash, never a tensor beyond its storage."""
    files = entries(GOOD)
    pickled = next(name for name in files if name.endswith('/data.pkl'))
    content, rng, survivors = files[pickled], random.Random(1), 0
    for place in range(len(content)):
        for value in (content[place] ^ (1 << rng.randrange(8)), rng.randrange(256)):
            changed = content[:place] + bytes([value]) + content[place + 1 :]
            found = read(archive_of({**files, pickled: changed}), tmp_path / 'x.pth')
            survivors += found is not None and len(repr(found)) > 0  # which reads every value
    assert 0 < survivors < 2 * len(content)


def with_sizes(**numbers) -> bytes:
    """A checkpoint of one tensor of float32 whose pickle says other numbers, with right checksums."""
    saved_numbers = {'count': 4321, 'offset': 0, 'side': 4321, 'step': 1}
    content = saved({'w': torch.zeros(4321)})
    files = entries(content)
    pickled = next(name for name in files if name.endswith('/data.pkl'))
    parts, order, body = [], ['count', 'offset', 'side', 'step'], files[pickled]
    codes = list(pickletools.genops(body))
    for (code, value, start), following in zip(codes, [*codes[1:], (None, None, len(body))], strict=True):
        piece = body[start : following[2]]
        if code.name in ('BININT1', 'BININT2', 'BININT') and order and value == saved_numbers[order[0]]:
            number = numbers.get(order.pop(0))
            piece = piece if number is None else pickle.LONG1 + bytes([9]) + number.to_bytes(9, 'little', signed=True)
        parts.append(piece)
    assert not order
    return archive_of({**files, pickled: b''.join(parts)})


@pytest.mark.parametrize(
    'numbers',
    [
        {'count': 4322, 'side': 4322},
        {'count': 2**40},
        {'count': 2**62},
        {'count': -1},
        {'side': 4322},
        {'side': -3},
        {'offset': 1},
        {'offset': -1},
        {'step': 2},
        {'step': -1},
        {'step': 2**62, 'side': 5},
        {'step': 2**61, 'side': 9},
        {'side': 2**63},
    ],
    ids=str,
)
def test_tensors_that_claim_more_than_the_file_holds(tmp_path, numbers):
    assert read(with_sizes(**numbers), tmp_path / 'x.pth') is None


def test_tensors_that_claim_less_are_read(tmp_path):
    assert torch.equal(read(with_sizes(side=5, step=1000), tmp_path / 'x.pth')['w'], torch.zeros(5))


def test_archives_that_torch_does_not_write(tmp_path):
    files = entries(GOOD)
    assert read(archive_of(files, zipfile.ZIP_DEFLATED), tmp_path / 'x.pth') is None
    assert_as_it_was(read(archive_of(files), tmp_path / 'x.pth'), 'unchanged')
    folder = next(iter(files)).partition('/')[0]
    assert read(archive_of({**files, f'{folder}/DATA/0': b'x' * 48}), tmp_path / 'x.pth') is None
    without = {name: content for name, content in files.items() if not name.endswith('/data/1')}
    assert read(archive_of(without), tmp_path / 'x.pth') is None


@pytest.mark.filterwarnings('ignore:Detected pickle protocol')
def test_the_format_before_1_6(tmp_path):
    """It has no checksums: what can be read is read, and every other error is one kind."""
    old, rng = saved(CONTENT, _use_new_zipfile_serialization=False), random.Random(2)
    assert_as_it_was(read(old, tmp_path / 'x.pth'), 'unchanged')
    refused = 0
    for _ in range(400):
        changed = bytearray(old)
        changed[rng.randrange(len(old))] ^= 1 << rng.randrange(8)
        refused += read(bytes(changed), tmp_path / 'x.pth') is None
    assert refused > 100
    assert read(old[:-9], tmp_path / 'x.pth') is None


def test_what_is_no_file_does_not_keep_anybody_waiting(tmp_path):
    os.mkfifo(tmp_path / 'pipe.pth')
    with pytest.raises(FileNotFoundError, match=r'there is no checkpoint .*pipe\.pth: it is no file, but a pipe'):
        load_checkpoint(tmp_path / 'pipe.pth')
    with pytest.raises(FileNotFoundError, match=r'/dev/zero: it is no file'):
        load_checkpoint('/dev/zero')
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(str(tmp_path / 's'))
        with pytest.raises(FileNotFoundError, match='it is no file'):
            load_checkpoint(tmp_path / 's')
    (tmp_path / 'loop.pth').symlink_to('loop.pth')
    for name in ('loop.pth', 'x' * 300, 'nul\0.pth', 'half\ud800.pth'):
        with pytest.raises(FileNotFoundError, match=r'there is no checkpoint .*(loop\.pth|xxx|nul|half)'):
            load_checkpoint(tmp_path / name)


def test_a_file_that_cannot_be_read_is_named(tmp_path, monkeypatch):
    path = tmp_path / 'x.pth'
    path.write_bytes(GOOD)

    def fail(*args, **kwargs):
        raise OSError(5, 'Input/output error')

    monkeypatch.setattr(zipfile.ZipFile, 'testzip', fail)
    with pytest.raises(ValueError, match=r'x\.pth cannot be read: Input/output error'):
        load_checkpoint(path)


def test_what_a_pickle_holds_beside_tensors_is_named(tmp_path):
    torch.save({'params': {}, 'args': socket.socket}, tmp_path / 'x.pth')
    with pytest.raises(ValueError, match=r'x\.pth is no checkpoint, or holds more than tensors.*: socket\.socket'):
        load_checkpoint(tmp_path / 'x.pth')


def state_of(number: int) -> dict:
    weight = torch.nn.Parameter(torch.ones(3))
    optimizer = torch.optim.Adam([weight], lr=0.1)
    weight.grad = torch.ones(3)
    optimizer.step()
    scheduler = torch.optim.lr_scheduler.StepLR(optimizer, 3)
    return {
        **{
            'iter': number,
            'epoch': 1,
            'optimizers': [optimizer.state_dict()],
            'manual_seed': 3,
            'options': 'name: x\n',
        },
        **{'schedulers': [scheduler.state_dict()], 'random': [get_random_state()], 'validated': True},
        **{'place': {'samples': 8, 'epoch_size': 20}, 'log_position': 10, 'types': {'train.optim_g.type': ['Adam']}},
        **{'strategy': {'names': ['plain'], 'state': {'network': {'w': torch.ones(3)}}}},
        **{'stepper': {'scaler': {}, 'bad_steps': 0, 'all_bad_steps': 2}, 'networks': {'net_d': {'w': torch.ones(2)}}},
        **{'best_metric_results': {'val': {'psnr': {'better': 'higher', 'val': 3.0, 'iter': 2}}}},
        **{'written': {4: ['models/net_g_4.pth']}},
    }


WRONG_FIELDS = [
    *(('iter', value) for value in ('4', -1, None, 2.5, True, [4], torch.tensor(4))),
    *(('epoch', value) for value in ('1', -1, None, 0.5)),
    *(('optimizers', value) for value in (None, {}, 'Adam', [None], [3], [{'param_groups': None}], [{'state': []}])),
    ('optimizers', [{'param_groups': [{'params': ['w']}]}]),
    ('optimizers', [{'param_groups': [{'params': None}]}]),
    ('optimizers', [{'param_groups': [{'params': [0], 'lr': float('nan')}], 'state': {}}]),
    ('optimizers', [{'param_groups': [{'params': [0], 'lr': 'fast'}], 'state': {}}]),
    ('optimizers', [{'param_groups': [], 'state': {0: 5}}]),
    ('optimizers', [{'param_groups': [], 'state': {0: {'exp_avg': torch.zeros(1).expand(8)}}}]),
    ('iter', 10**30),
    *(('best_metric_results', {'val': value}) for value in (5, {'psnr': 5}, {'psnr': {'better': 'higher', 'iter': 1}})),
    ('best_metric_results', {'val': {'psnr': {'better': 'larger', 'val': 1.0, 'iter': 1}}}),
    *(('schedulers', value) for value in (None, {}, [None], [[]])),
    *(('manual_seed', value) for value in ('3', None, 2.0, -1)),
    *(('options', value) for value in (None, 3, {})),
    *(
        ('place', value)
        for value in (None, [], {'samples': -1, 'epoch_size': 3}, {'samples': 1}, {'samples': 1, 'epoch_size': 0})
    ),
    *(
        ('random', value)
        for value in (None, 'x', {'a': None}, [None], [{}], [{**get_random_state(), 'torch': torch.zeros(3)}])
    ),
    ('random', [{**get_random_state(), 'python': (3, (1, 2), None)}]),
    ('random', [{**get_random_state(), 'numpy': ['MT19937', [1, 2], 0, 0, 0.0]}]),
    *(('validated', value) for value in (None, 1, 'yes')),
    *(('log_position', value) for value in (None, -5, 'end')),
    *(
        ('strategy', value)
        for value in (None, [], {'names': 'plain', 'state': {}}, {'names': ['plain'], 'state': None})
    ),
    *(('stepper', value) for value in (None, [], {'bad_steps': 'no', 'all_bad_steps': 0}, {'scaler': {}})),
    *(('types', value) for value in (None, {'train.optim_g.type': 'Adam'})),
    *(('networks', value) for value in (None, [], {'net_d': None})),
    *(('written', value) for value in (None, {4: 'models/net_g_4.pth'}, {4: ['../x.pth']}, {'4': ['models/a.pth']})),
    *(('best_metric_results', value) for value in (None, [])),
]


@pytest.mark.parametrize('field, value', WRONG_FIELDS, ids=lambda part: str(part)[:20].replace('\n', ' '))
def test_fields_of_a_state_are_checked_by_name(tmp_path, field, value):
    path = tmp_path / '4.state'
    save_checkpoint({**state_of(4), field: value}, path)
    with pytest.raises(ValueError, match=rf'4\.state is no training state that can be used: {field}') as error:
        load_training_state(path)
    assert len(str(error.value).splitlines()) == 1 and len(str(error.value)) < 400


@pytest.mark.parametrize('field', ['epoch', 'optimizers', 'schedulers'])
def test_fields_that_a_state_lacks_are_named(tmp_path, field):
    path = tmp_path / '4.state'
    save_checkpoint({name: value for name, value in state_of(4).items() if name != field}, path)
    with pytest.raises(ValueError, match=rf'4\.state is no training state that can be used: {field}: Field required'):
        load_training_state(path)


def test_states_of_all_versions_are_read(tmp_path):
    """BasicSR's have four fields; the first of this project one random state, a dictionary."""
    bare = {name: state_of(4)[name] for name in ('iter', 'epoch', 'optimizers', 'schedulers')}
    for state in (state_of(4), bare, {**bare, 'random': get_random_state()}):
        save_checkpoint(state, tmp_path / '4.state')
        assert load_training_state(tmp_path / '4.state').keys() == state.keys()


def test_whatever_is_damaged_the_state_before_is_taken(tmp_path, logged):
    """Bits of the newest state, and its fields: the same weights, or those of the state before, and said."""
    states = tmp_path / 'training_states'
    states.mkdir()
    save_checkpoint(state_of(5), states / '5.state')
    save_checkpoint(state_of(10), states / '10.state')
    whole, rng, fell_back = (states / '10.state').read_bytes(), random.Random(3), 0
    directory = whole.index(b'PK\x01\x02')
    for index in range(150):
        changed = bytearray(whole)
        place = rng.randrange(directory, len(whole)) if index % 2 else rng.randrange(len(whole))
        changed[place] ^= 1 << rng.randrange(8)
        (states / '10.state').write_bytes(changed)
        paths = {'training_states': str(states), 'resume_state': None}
        opt = {'auto_resume': True, 'manual_seed': 3, 'seed_is_drawn': False, 'name': 'x', 'path': paths}
        number = load_resume_state(opt, {'name': 'x'})['iter']
        assert number in (5, 10), place
        fell_back += number == 5
    assert fell_back > 50
    assert sum('going back to the one before' in warning for warning in logged.warnings()) == fell_back
