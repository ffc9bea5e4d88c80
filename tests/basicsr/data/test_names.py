"""Which files of a folder, or of a list of names, are pictures of a data set: none is left out silently."""

import os
import unicodedata
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from basicsr.data import build_dataset
from basicsr.data.data_util import paired_paths_from_folder, paths_from_folder
from basicsr.data.names import IMG_EXTENSIONS, Spellings, read_names
from basicsr.utils import scandir
from basicsr.utils.lmdb_util import make_lmdb
from scripts.data_preparation.create_lmdb import pictures_by_key

NFC, NFD = (unicodedata.normalize(form, 'Zürich é') for form in ('NFC', 'NFD'))
KEYS = ['lq', 'gt']


def write(path: Path, seed: int = 0) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    img = np.random.default_rng(seed).integers(0, 256, (8, 10, 3), dtype=np.uint8)
    path.write_bytes(cv2.imencode(path.suffix.lower(), img)[1].tobytes())
    return path


def pairs(root: Path, **changes):
    section = {'type': 'PairedImageDataset', 'name': 'pairs', 'phase': 'val', 'scale': 1}
    return build_dataset({**section, **{f'dataroot_{key}': str(root / key) for key in KEYS}, **changes})


def names_of(dataset) -> list[tuple[str, str]]:
    return [tuple(os.path.basename(pair[f'{key}_path']) for key in KEYS) for pair in dataset.paths]


# Links


def broken_link(folder: Path, name: str, kind: str) -> str:
    """Makes a link that lies in `folder` and leads nowhere; returns how it is called."""
    target = {'gone': 'gone.png', 'itself': name, 'to a loop': f'other_{name}'}[kind]
    (folder / name).symlink_to(target)
    if kind == 'to a loop':
        (folder / f'other_{name}').symlink_to(name)
    return 'is not there' if kind == 'gone' else 'leads back to itself'


@pytest.mark.parametrize('kind', ['gone', 'itself', 'to a loop'])
@pytest.mark.parametrize('key', KEYS)
def test_links_that_lead_nowhere_are_counted_and_named(tmp_path, kind, key):
    for name in ('0.png', '1.png', '2.png', '3.png'):
        for folder in KEYS:
            write(tmp_path / folder / name)
    (tmp_path / key / '1.png').unlink()
    (tmp_path / key / '3.png').unlink()
    said = broken_link(tmp_path / key, '1.png', kind)
    broken_link(tmp_path / key, '3.png', 'gone')
    with pytest.raises(ValueError) as error:
        pairs(tmp_path)
    count = 3 if kind == 'to a loop' else 2
    assert f"{count} files of dataroot_{key} '{tmp_path / key}' cannot be opened: 1.png is a link to" in str(
        error.value
    )
    assert said in str(error.value) and '3.png is a link to gone.png, which is not there' in str(error.value)
    (tmp_path / 'names.txt').write_text('0.png\n1.png\n')
    with pytest.raises(FileNotFoundError, match=rf'line 2: .*1\.png \(dataroot_{key}\).*{said}'):
        pairs(tmp_path, meta_info_file=str(tmp_path / 'names.txt'))
    (tmp_path / 'names.txt').write_text('0.png\n2.png\n')
    assert len(pairs(tmp_path, meta_info_file=str(tmp_path / 'names.txt'))) == 2, 'those that are used are there'


def test_links_to_pictures_and_links_that_are_none(tmp_path):
    write(tmp_path / 'elsewhere' / 'a.png')
    (tmp_path / 'in').mkdir()
    (tmp_path / 'in' / 'a.png').symlink_to('../elsewhere/a.png')
    (tmp_path / 'in' / 'loop').symlink_to('loop')
    (tmp_path / 'in' / 'notes.txt').symlink_to('gone.txt')
    assert paths_from_folder(tmp_path / 'in') == [str(tmp_path / 'in' / 'a.png')], 'no pictures by their names'
    os.mkfifo(tmp_path / 'in' / 'b.png')
    with pytest.raises(ValueError, match=r'1 files of .*: b\.png is no file, but a pipe'):
        paths_from_folder(tmp_path / 'in')


def test_folders_that_lead_back_are_searched_once_and_named(tmp_path, logged):
    write(tmp_path / 'in' / 'a.png')
    write(tmp_path / 'in' / 'b' / 'c.png')
    write(tmp_path / 'other' / 'd.png')
    for link, target in (('up', '..'), ('b/top', '../../in'), ('b/here', '.'), ('other', '../other'), ('x', 'x')):
        (tmp_path / 'in' / link).symlink_to(target)
    (tmp_path / 'other' / 'back').symlink_to('../in')
    found = list(scandir(tmp_path / 'in', recursive=True))
    assert [name for name in found if name.endswith('.png') and not name.startswith('up/')] == [
        *('a.png', 'b/c.png', 'other/d.png'),
    ]
    assert 'x' in found, 'a link to itself is no folder, and does not end the search'
    assert len(found) == len(set(found)) < 20
    assert any('b/here links to a folder that it lies in: not searched again' in text for text in logged.warnings())
    assert list(scandir(tmp_path / 'in')) == ['a.png', 'x'], 'not into folders'
    assert list(scandir(tmp_path / 'in', suffix='.png', full_path=True)) == [str(tmp_path / 'in' / 'a.png')]


def test_what_an_lmdb_would_leave_out(tmp_path, logged):
    write(tmp_path / 'in' / 'b' / 'a.png')
    write(tmp_path / 'in' / 'c.tif')
    (tmp_path / 'in' / 'd.GIF').write_bytes(b'GIF89a')
    (tmp_path / 'in' / 'b' / 'up').symlink_to('..')
    assert sorted(pictures_by_key(tmp_path / 'in')) == ['b/a', 'c']
    assert any('1 files of' in text and 'd.GIF' in text for text in logged.warnings())
    broken_link(tmp_path / 'in' / 'b', 'e.png', 'itself')
    with pytest.raises(ValueError, match=r'1 files of .* cannot be opened: b/e\.png is a link to e\.png'):
        pictures_by_key(tmp_path / 'in')


def test_pictures_of_other_formats_are_said(tmp_path, logged):
    for key in KEYS:
        write(tmp_path / key / '0.png')
        for name in ('1.gif', '2.HEIC', 'notes.txt'):
            (tmp_path / key / name).write_bytes(b'any')
    assert len(pairs(tmp_path)) == 1
    said = [text for text in logged.warnings() if 'formats are not read' in text]
    assert len(said) == 2 and all('2 files of dataroot_' in text and '1.gif, 2.HEIC' in text for text in said)


# Lists


@pytest.mark.parametrize(
    ('text', 'names'),
    [
        ('\ufeff0.png\r\n1.png\r\n', ['0.png', '1.png']),
        ('0.png  \t\n\n   \n  1.png\t(8,10,3)', ['0.png', '1.png']),
        ('0.png (480,480,3)\n1.png (480,480,3) 1\n', ['0.png', '1.png']),
        ('my holiday.png (480,480,3)\nat the sea .JPG\n', ['my holiday.png', 'at the sea .JPG']),
        ('"my holiday.png" (8,8,3)\n\'it is.png\'', ['my holiday.png', 'it is.png']),
        ('it\'s.png\n"a".png', ["it's.png", '"a".png']),
        ('sub/a b.png 0.5\nx.tar.png.png\n1.png 2.png', ['sub/a b.png', 'x.tar.png.png', '1.png']),
        ('0001 (8,10,3)\n0002 more\nmy key (8,10,3) 1', ['0001', '0002', 'my key']),
        (f'{NFD}.png\n日本 語.png (8,10,3)', [f'{NFD}.png', '日本 語.png']),
        ('a\u2028b.png\nc\x0bd.png', ['a\u2028b.png', 'c\x0bd.png']),
    ],
)  # fmt: skip
def test_names_in_lists(tmp_path, text, names):
    (tmp_path / 'names.txt').write_bytes(text.encode())
    assert [name for _, name in read_names(tmp_path / 'names.txt').names] == names


WORDS = st.text(st.characters(exclude_characters='/"\'.', exclude_categories=['Cs', 'Z', 'Cc', 'Cf']), min_size=1)


@given(
    st.lists(WORDS, min_size=1, max_size=3),
    st.sampled_from(IMG_EXTENSIONS),
    st.sampled_from([' (8,10,3)', '\t', '', ' 1 2']),
)
def test_names_of_any_words(tmp_path_factory, words, extension, rest):
    file, name = tmp_path_factory.mktemp('lists') / 'names.txt', ' '.join(words) + extension
    file.write_text(f'{name}{rest}\r\n', encoding='utf-8-sig', newline='')
    assert read_names(file).names == ((1, name),)


def test_a_list_that_is_no_text_in_utf_8(tmp_path):
    (tmp_path / 'names.txt').write_text('0.png\n', encoding='utf-16')
    with pytest.raises(ValueError, match=r'meta_info_file: .*names\.txt. is no text in UTF-8'):
        read_names(tmp_path / 'names.txt')


def test_lists_name_pictures_with_spaces_on_the_disk(tmp_path):
    for key in KEYS:
        write(tmp_path / key / 'my holiday.png')
    (tmp_path / 'names.txt').write_bytes('\ufeffmy holiday.png (8,10,3)\r\n'.encode())
    assert names_of(pairs(tmp_path, meta_info_file=str(tmp_path / 'names.txt'))) == [('my holiday.png',) * 2]


# Spellings


def different(tmp_path):
    """Whether the file system keeps the two normalisations apart."""
    return not (write(tmp_path / 'probe' / f'{NFC}.png').parent / f'{NFD}.png').exists()


@pytest.mark.parametrize(('gt', 'lq'), [(NFC, NFD), (NFD, NFC)])
@pytest.mark.parametrize(('gt_end', 'lq_end'), [('.png', '.png'), ('.PNG', '.png'), ('.png', '.JPG')])
def test_names_in_two_normalisations_are_pairs(tmp_path, gt, lq, gt_end, lq_end):
    if not different(tmp_path):
        pytest.skip('the file system knows one normalisation only')
    write(tmp_path / 'gt' / f'{gt}{gt_end}')
    write(tmp_path / 'lq' / f'{lq}x2{lq_end}')
    write(tmp_path / 'gt' / 'a.png')
    write(tmp_path / 'lq' / 'ax2.png')
    expected = [('ax2.png', 'a.png'), (f'{lq}x2{lq_end}', f'{gt}{gt_end}')]
    assert sorted(names_of(pairs(tmp_path, filename_tmpl='{}x2'))) == sorted(expected)
    (tmp_path / 'names.txt').write_text(f'{lq}.png\na.Png\n', encoding='utf-8')
    listed = pairs(tmp_path, filename_tmpl='{}x2', meta_info_file=str(tmp_path / 'names.txt'))
    assert names_of(listed) == expected[::-1]
    assert torch.equal(listed[0]['gt'], listed[1]['gt'])
    several = {f'dataroot_{key}': [str(tmp_path / key), str(tmp_path / 'more' / key)] for key in KEYS}
    for key, end in (('gt', ''), ('lq', 'x2')):
        write(tmp_path / 'more' / key / f'z{end}.png')
    shared = pairs(tmp_path, filename_tmpl='{}x2', meta_info_file=str(tmp_path / 'names.txt'), **several)
    assert names_of(shared) == expected[::-1]


def test_both_normalisations_in_one_folder_stay_two_pictures(tmp_path):
    if not different(tmp_path):
        pytest.skip('the file system knows one normalisation only')
    for key in KEYS:
        for name in (NFC, NFD):
            write(tmp_path / key / f'{name}.png')
    found = paired_paths_from_folder([str(tmp_path / key) for key in KEYS], KEYS)
    assert [Path(pair['lq_path']).name for pair in found] == [Path(pair['gt_path']).name for pair in found]
    (tmp_path / 'lq' / f'{NFD}.png').unlink()
    with pytest.raises(ValueError, match=r'1 pictures are paired, but not all; 1 files of dataroot_gt'):
        pairs(tmp_path)


def test_stems_in_another_case_are_not_pairs_and_both_are_named(tmp_path):
    write(tmp_path / 'gt' / 'IMG_1.png')
    write(tmp_path / 'lq' / 'img_1.png')
    with pytest.raises(ValueError, match=r'without a partner: IMG_1\.png; .*without a partner: img_1\.png'):
        pairs(tmp_path)


def test_lmdbs_in_two_normalisations(tmp_path):
    pytest.importorskip('lmdb', reason='LMDB is an extra: pip install lmdb')
    source = write(tmp_path / 'a.png')
    for key, name in (('gt', NFC), ('lq', NFD)):
        make_lmdb({name: source, 'a b': source}, tmp_path / f'{key}.lmdb')
    (tmp_path / 'lq.lmdb' / 'meta_info.txt').write_text(
        (tmp_path / 'lq.lmdb' / 'meta_info.txt').read_text('utf-8'), encoding='utf-8-sig'
    )
    roots = {f'dataroot_{key}': str(tmp_path / f'{key}.lmdb') for key in KEYS}
    both = pairs(tmp_path, **roots, io_backend={'type': 'lmdb'})
    assert names_of(both) == [(NFD, NFC), ('a b', 'a b')]
    assert torch.equal(both[0]['gt'], both[0]['lq'])
    (tmp_path / 'names.txt').write_text(f'{NFD}.png\na b (8,10,3) 1', encoding='utf-8')
    listed = pairs(tmp_path, **roots, io_backend={'type': 'lmdb'}, meta_info_file=str(tmp_path / 'names.txt'))
    assert names_of(listed) == [(NFD, NFC), ('a b', 'a b')]


def test_the_strictest_rule_wins():
    names = Spellings(['a.JPG', 'a.jpg', 'a.png', f'{NFD}.png'])
    assert [names.find(name) for name in ('a.jpg', 'a.JPG', 'a.Jpg', 'a.bmp')] == ['a.jpg', 'a.JPG', 'a.JPG', None]
    assert names.find('a.bmp', any_extension=True) == 'a.JPG'
    assert names.find(f'{NFC}.PNG') == f'{NFD}.png' and names.find('A.png') is None


def test_folders_inside_and_links_that_may_have_been_folders_are_said(tmp_path, logged):
    cv2.imwrite(str(tmp_path / '0.png'), np.zeros((4, 4, 3), np.uint8))
    (tmp_path / 'more').mkdir()
    cv2.imwrite(str(tmp_path / 'more' / '1.png'), np.zeros((4, 4, 3), np.uint8))
    (tmp_path / 'album').symlink_to(tmp_path / 'gone')
    assert len(paths_from_folder(str(tmp_path))) == 1
    warnings = ' '.join(logged.warnings())
    assert '1 folders in ' in warnings and 'are not searched: more;' in warnings
    assert '1 links in ' in warnings and 'lead nowhere: album' in warnings
