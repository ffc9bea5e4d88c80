"""Pictures of classes in several domains."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator, Mapping, Sequence
from typing import Annotated, Any, Literal

import torch
from annotated_types import Ge, Gt, Len, Lt
from torch import Tensor
from torch.utils.data import Dataset

from basicsr.data.contract import accepts_opt
from basicsr.data.data_util import check_files_open, listed
from basicsr.data.decoding import PictureCache, read_rgb, without_broken
from basicsr.data.domains import (
    DomainFolder,
    Picture,
    choose_domains,
    doubts,
    names_in,
    read_domains,
    split,
    unique_names,
)
from basicsr.data.transform_lists import (
    IMAGENET_MEAN,
    IMAGENET_STD,
    PictureTransform,
    build_transforms,
    domainbed,
    normalises,
    resized,
)
from basicsr.options.bounds import Side
from basicsr.utils.registry import DATASET_REGISTRY

HELD_OUT, IMAGE_SIZE = 0.2, 224
Share = Annotated[float, Gt(0), Lt(1)]
Height_Width = Annotated[Sequence[Side], Len(2, 2)]
Three = Annotated[Sequence[float], Len(3, 3)]
ThreePositive = Annotated[Sequence[Annotated[float, Gt(0)]], Len(3, 3)]


@DATASET_REGISTRY.register()
@accepts_opt
class DomainFolderDataset(Dataset):
    """Pictures in folders `<dataroot>/<domain>/<class>`, as DomainBed lays out PACS, VLCS, OfficeHome and others.

    `phase: train` has the training domains without their held-out part, `val` has that part, and `test` has all of
    `test_domains` or, without these, the held-out part again: what a network knows of domains that it has seen.

    Items are dictionaries: image (3, h, w), float32, RGB, normalised; label and domain, whole numbers, places in
    `classes` and `domains`; path. See docs/domains.md.

    Args:
        dataroot: Folder of the domains.
        train_domains: Domains to train on. Default: all but test_domains.
        test_domains: Domains that are not trained on. In test, all their pictures; default there: the held-out part
            of the training domains.
        held_out: Share of each class of each training domain that is held out, for validation.
        split_seed: Another seed holds out other pictures.
        image_size: Side of the pictures that the network gets, or height and width.
        transforms: Transforms of torchvision.transforms.v2 before conversion to float and normalisation, in order:
            `Name`, `Name: {argument: value}` or `{type: Name, argument: value}`. Default: in training, the
            augmentation of DomainBed; in val and test, Resize to image_size.
        mean: Subtracted from each channel, whose values are in [0, 1]. Default: that of ImageNet.
        std: Divides each channel. Default: that of ImageNet.
        balanced: Training: every batch has as many samples of each domain, or one less.
        cache: Decode all pictures at the beginning and keep them in memory.
        skip_broken: Decode all pictures at the beginning, and leave out those that cannot be read.

    Attributes:
        classes: Names of the classes of the whole archive, whichever domains are chosen, sorted.
        domains: The chosen domains, of which the samples are.
        paths: The file of each sample.
        names: `<domain>/<class>/<stem>` of each, unique, with `/` everywhere.
        labels: The class of each, a place in `classes`.
        groups: The domain of each, a place in `domains`.
        item_size: Height and width of each image.
        mean, std: Of the normalisation, by channel; None where `transforms` have one of their own.
        is_held_out_part: Whether the samples are held-out pictures of domains that are trained on.

    Raises:
        FileNotFoundError: The folder is missing.
        ValueError: An option is wrong, or the archive lacks what it says; or a picture cannot be read.
    """

    test_batch_size = 64
    """Samples per batch in val and test, where the section does not say."""

    def __init__(
        self,
        dataroot: str | os.PathLike[str],
        *,
        phase: Literal['train', 'val', 'test'] = 'train',
        train_domains: Sequence[str] | str | None = None,
        test_domains: Sequence[str] | str | None = None,
        held_out: Share = HELD_OUT,
        split_seed: Annotated[int, Ge(0)] = 0,
        image_size: Side | Height_Width = IMAGE_SIZE,
        transforms: Sequence[str | dict[str, Any]] | None = None,
        mean: Three | None = None,
        std: ThreePositive | None = None,
        balanced: bool = True,
        cache: bool = False,
        skip_broken: bool = False,
    ) -> None:
        self.dataroot, self.phase, self.balanced = dataroot, phase, balanced
        self._transform = _transform_for(phase, image_size, transforms, mean, std)
        own = transforms is not None and normalises(transforms)
        self.mean, self.std = (None, None) if own else (mean or IMAGENET_MEAN, std or IMAGENET_STD)
        self.item_size = self._transform.size
        archive = read_domains(dataroot)
        trained, tested = choose_domains(archive, train_domains, test_domains)
        whole = phase == 'test' and bool(tested)
        self.is_held_out_part = phase != 'train' and not whole
        self.domains, self.classes = (tested if whole else trained), archive.classes
        if not self.domains:
            raise ValueError(
                f'test_domains: no domain is left to train on: {", ".join(tested)} are all of {archive.root!r}'
            )
        chosen = [
            (picture, label, group)
            for group, domain in enumerate(self.domains)
            for label, name in enumerate(self.classes)
            for picture in _part(archive.domains[domain].get(name, []), phase, whole, held_out, split_seed)
        ]
        if not chosen:
            raise ValueError(f'held_out: no class of {", ".join(self.domains)} has two pictures, one to hold out')
        chosen = _readable(chosen, archive.root, skip_broken)
        self.paths = [picture.path for picture, _, _ in chosen]
        self.names = unique_names([picture.name for picture, _, _ in chosen])
        self.labels, self.groups = [label for _, label, _ in chosen], [group for _, _, group in chosen]
        self._log(archive)
        self._cache = PictureCache.of(self.paths) if cache else None

    @staticmethod
    def check_options(given: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
        """Mistakes that need no files, as (argument, message)."""
        train, test = (names_in(given.get(key)) for key in ('train_domains', 'test_domains'))
        for key, names in (('train_domains', train), ('test_domains', test)):
            if twice := sorted({name for name in names if names.count(name) > 1}):
                yield key, f'names {", ".join(twice)} twice'
        if 'train_domains' in given and not train:
            yield 'train_domains', 'must name a domain; leave it out for all but test_domains'
        if both := [name for name in test if name in train]:
            yield (
                'test_domains',
                f'{", ".join(both)} is in train_domains, too; take it out of one of the lists',
            )
        for key in ('mean', 'std'):
            if len(given.get(key) or (0, 0, 0)) != 3:
                yield key, f'must have 3 numbers, for red, green and blue, not {len(given[key])}'
        entries = given.get('transforms')
        if entries is None:
            return
        try:
            build_transforms(entries)
        except ValueError as error:
            yield 'transforms', str(error)
            return
        if normalises(entries) and ('mean' in given or 'std' in given):
            key = 'mean' if 'mean' in given else 'std'
            yield key, 'goes with no Normalize in transforms, which would be a second normalisation; drop one of them'

    @staticmethod
    def check_together(sections: Mapping[str, Mapping[str, Any]]) -> None:
        """Compare the sections of a training, so that what trains is neither held out nor called unseen.

        Args:
            sections: Those of this class, by key; `train` among them.

        Raises:
            ValueError: Two sections split one folder in different ways; or a domain that is trained on is tested as one
                that is not.
        """
        train = sections['train']
        root, archive = os.path.realpath(train['dataroot']), read_domains(train['dataroot'])
        trained = choose_domains(archive, train.get('train_domains'), train.get('test_domains')).train
        for key, section in sections.items():
            if key == 'train' or os.path.realpath(section['dataroot']) != root:
                continue
            for name, default in (('held_out', HELD_OUT), ('split_seed', 0)):
                own, theirs = (default if one.get(name) is None else one[name] for one in (section, train))
                if own != theirs:
                    raise ValueError(
                        f'datasets.{key}.{name}: must be that of datasets.train, {theirs}, not {own}: pictures that '
                        'are trained on would be held out'
                    )
            tested = names_in(section.get('test_domains')) if section['phase'] == 'test' else []
            both = [name for name in tested if name in trained]
            if both and not section.get('seen'):
                raise ValueError(
                    f'datasets.{key}.test_domains: {", ".join(both)} is trained on, and so is not unseen; name it in '
                    'datasets.train.test_domains as well, or mark the section with seen: true'
                )

    @classmethod
    def transform_of(cls, section: Mapping[str, Any]) -> PictureTransform:
        """What a data set of this section does to a decoded picture; needs no folder."""
        rest = (section.get(key) for key in ('transforms', 'mean', 'std'))
        return _transform_for(section['phase'], section.get('image_size') or IMAGE_SIZE, *rest)

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int) -> dict[str, Tensor | int | str]:
        path = self.paths[index]
        picture = torch.from_numpy(read_rgb(path)) if self._cache is None else self._cache[index]
        try:
            image = self._transform(picture)
        except ValueError as error:
            raise ValueError(f'{path!r}: {error}') from error
        return {'image': image, 'label': self.labels[index], 'domain': self.groups[index], 'path': path}

    def __getstate__(self) -> dict[str, Any]:
        """Spawned workers read the files: a copy of the cache in each would take more memory than was said."""
        return {**vars(self), '_cache': None}

    def _log(self, archive: DomainFolder) -> None:
        logger = logging.getLogger('basicsr')
        for note in archive.notes:
            logger.info('%s: %s', self.dataroot, note)
        for doubt in doubts(archive, self.domains):
            logger.warning('%s: %s', self.dataroot, doubt)
        counts = [f'{self.groups.count(group)} of {domain}' for group, domain in enumerate(self.domains)]
        logger.info('%s samples: %s; %d classes', self.phase, ', '.join(counts), len(self.classes))


def _transform_for(
    phase: str,
    image_size: int | Sequence[int],
    entries: Sequence[str | dict[str, Any]] | None,
    mean: Sequence[float] | None,
    std: Sequence[float] | None,
) -> PictureTransform:
    height, width = (image_size, image_size) if isinstance(image_size, int) else image_size
    default = entries is None
    if default:
        entries = (domainbed if phase == 'train' else resized)((height, width))
    normalisation = (None, None) if normalises(entries) else (mean or IMAGENET_MEAN, std or IMAGENET_STD)
    try:
        transform = PictureTransform(entries, (height, width), *normalisation)
    except ValueError as error:
        raise ValueError(f'transforms: {error}') from error
    if transform.size != (height, width):
        logging.getLogger('basicsr').warning(
            'transforms make pictures of %dx%d, and image_size is %dx%d: the transforms decide',
            *(*transform.size, height, width),
        )
    return transform


def _part(pictures: list[Picture], phase: str, whole: bool, held_out: float, seed: int) -> list[Picture]:
    """What a phase gets of a class of one of its domains."""
    return pictures if whole else split(pictures, held_out, seed)[0 if phase == 'train' else 1]


def _readable(chosen: list[tuple[Picture, int, int]], root: str, skip_broken: bool) -> list[tuple[Picture, int, int]]:
    """Those whose files can be read, with `skip_broken`; else all, of which links at least lead somewhere."""
    paths = [picture.path for picture, _, _ in chosen]
    if not skip_broken:
        links = [os.path.relpath(path, root) for path in paths if os.path.islink(path)]
        check_files_open(root, links, f'dataroot {root!r}')
        return chosen
    good = without_broken(paths)
    if not good:
        raise ValueError(f'skip_broken: {listed("pictures, and not one can be read", paths)}')
    return [one for one in chosen if one[0].path in good]
