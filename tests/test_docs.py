"""What README and docs point to is there, and drawn pictures are what their scripts draw."""

import re
import runpy
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PAGES = [*ROOT.glob('*.md'), *(ROOT / 'docs').glob('*.md'), *(ROOT / 'assets').glob('*.md')]


def headings(page: Path) -> set[str]:
    """The anchors of a page, as GitHub makes them."""
    lines = re.sub(r'```.*?```', '', page.read_text(), flags=re.S).splitlines()
    titles = [line.lstrip('#').strip().lower() for line in lines if line.startswith('#')]
    return {re.sub(r'[^\w\- ]', '', title).replace(' ', '-') for title in titles}


@pytest.mark.parametrize('page', PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page):
    text = re.sub(r'```.*?```', '', page.read_text(), flags=re.S)
    for target in re.findall(r'\]\(([^)\s]+)\)', text):
        if re.match(r'https?:', target):
            continue
        name, _, anchor = target.partition('#')
        file = (page.parent / name).resolve() if name else page
        assert file.exists(), f'{page.name} links to {target}'
        assert not anchor or anchor in headings(file), f'{page.name} links to {target}'


@pytest.mark.parametrize('page', PAGES, ids=lambda page: page.name)
def test_files_that_commands_name_are_there(page):
    for name in re.findall(
        r'(?<![\w/])(?:options|scripts|assets|basicsr|docs)/[\w/.]+\.(?:py|yml|sh|sbatch|md|json)\b', page.read_text()
    ):
        assert any((folder / name).is_file() for folder in (ROOT, page.parent)), f'{page.name} names {name}'


def test_the_pipelines_picture_is_what_its_script_draws():
    script = runpy.run_path(str(ROOT / 'assets' / 'make_pipeline.py'))
    assert script['picture']() == (ROOT / 'assets' / 'pipeline.svg').read_text(encoding='utf-8')
