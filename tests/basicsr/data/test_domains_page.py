"""docs/domains.md: its option files are read, and do what it says."""

import re
from itertools import product
from pathlib import Path

import numpy as np
import pytest
import yaml
from PIL import Image

from basicsr.data import build_dataset
from basicsr.data.data_util import IMG_EXTENSIONS
from basicsr.data.names import CLASSIFIED_EXTENSIONS
from basicsr.options.check import check_section
from basicsr.options.choices import section_for

PAGE = (Path(__file__).resolve().parents[3] / 'docs' / 'domains.md').read_text(encoding='utf-8')
EXAMPLES = [yaml.safe_load(text)['datasets'] for text in re.findall(r'```yaml\n(.*?)```', PAGE, re.S)]


@pytest.fixture(scope='module')
def root(tmp_path_factory):
    """Four domains, two classes, five pictures of each."""
    folder = tmp_path_factory.mktemp('PACS')
    for domain, name, number in product(('art_painting', 'cartoon', 'photo', 'sketch'), ('dog', 'house'), range(5)):
        path = folder / domain / name / f'{number}.png'
        path.parent.mkdir(parents=True, exist_ok=True)
        values = np.random.default_rng(number).integers(0, 256, (120, 130, 3), dtype=np.uint8)
        Image.fromarray(values).save(path)
    return folder


@pytest.mark.parametrize('sections', EXAMPLES, ids=['phases', 'transforms'])
def test_the_examples(sections, root):
    counts = {}
    for key, section in sections.items():
        section = {**section, 'dataroot': str(root)}
        check_section(section_for('dataset', section), section, key)
        dataset = build_dataset({**section, 'phase': key.split('_')[0]})
        side = section.get('image_size', 224)
        assert dataset[0]['image'].shape == (3, side, side)
        counts[key] = len(dataset)
    expected = {'train': 24, 'val': 6, 'test': 10, 'test_seen': 6}
    assert counts == {key: expected[key] for key in sections}


def test_the_page_names_all_extensions():
    named = re.search(r'Files count by their extension[^:]*: ([\w\s,]+)\.', PAGE)[1]
    assert {f'.{word.strip()}' for word in named.split(',')} == set(CLASSIFIED_EXTENSIONS) > set(IMG_EXTENSIONS)
