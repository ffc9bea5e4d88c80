"""A task of classification and its samples, as small as they can be: stripes of two domains."""

import copy
from pathlib import Path

import torch
from torch import nn
from torch.utils.data import Dataset

from basicsr.data.loaders import loader_beside_the_training
from basicsr.models.task import Task
from basicsr.utils.registry import ARCH_REGISTRY, DATASET_REGISTRY, MODEL_REGISTRY

CLASSES, DOMAINS = 3, ('bright', 'dark')


@DATASET_REGISTRY.register()
class Stripes(Dataset):
    """Stripes that lie, stand or lean, of 16 px and noisy, in each domain as many.

    Args:
        count: How many samples of a class in a domain.
    """

    def __init__(self, count: int = 6):
        self.places = places = [
            (domain, label, index) for domain in range(2) for label in range(CLASSES) for index in range(count)
        ]
        self.groups, self.labels = [place[0] for place in places], [place[1] for place in places]
        self.paths = [f'/pictures/{DOMAINS[domain]}/{label}/{index}.png' for domain, label, index in places]
        self.domains, self.classes = list(DOMAINS), ['lie', 'stand', 'lean']

    def __len__(self):
        return len(self.paths)

    def __getitem__(self, index):
        domain, label, _ = self.places[index]
        rows, columns = torch.meshgrid(torch.arange(16.0), torch.arange(16.0), indexing='ij')
        wave = torch.sin((rows, columns, (rows + columns) / 2)[label] + 6 * torch.rand(()))
        image = (wave * (1, 0.3)[domain] + (1, -1)[domain]).expand(3, -1, -1) + 0.3 * torch.randn(3, 16, 16)
        return {'image': image, 'label': label, 'domain': domain, 'path': self.paths[index]}


@ARCH_REGISTRY.register()
class StripesNet(nn.Module):
    """Convolutions with batch statistics, and a linear head."""

    head_prefixes = ('head',)

    def __init__(self):
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(3, 8, 5, 2), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 12, 3), nn.BatchNorm2d(12), nn.ReLU()
        )
        self.head = nn.Linear(12, CLASSES)

    def forward(self, x):
        return self.head(self.body(x).mean((2, 3)))


@MODEL_REGISTRY.register()
class StripesModel(Task):
    """Cross-entropy."""

    def init_losses(self):
        pass

    def batch_on_device(self, data):
        return data

    def losses(self, net, batch):
        return {'l_cls': nn.functional.cross_entropy(net(batch['image']), batch['label'])}


VIT = {
    'type': 'timm', 'name': 'vit_tiny_patch16_224', 'img_size': 16, 'patch_size': 8, 'embed_dim': 16, 'depth': 2,
    'num_heads': 2, 'num_classes': CLASSES,
}  # fmt: skip
NETWORKS = {'cnn': {'type': 'StripesNet'}, 'vit': VIT}


def options(folder, network=NETWORKS['cnn'], count=6, **train):
    paths = {key: str(folder / key) for key in ('models', 'training_states', 'visualization')}
    for path in paths.values():
        Path(path).mkdir(exist_ok=True)
    section = {'type': 'Stripes', 'count': count, 'phase': 'train', 'batch_size_per_gpu': 4, 'num_worker_per_gpu': 0}
    return {
        'name': 'stripes',
        'model_type': 'StripesModel',
        **{'num_gpu': 0, 'is_train': True, 'dist': False, 'rank': 0, 'world_size': 1, 'manual_seed': 3},
        'datasets': {'train': section},
        'network_g': network,
        'path': {**paths, 'experiments_root': str(folder)},
        'train': {'total_iter': 12, 'optim_g': {'type': 'Adam', 'lr': 3e-3}, **copy.deepcopy(train)},
    }


def begun(opt):
    """The model, as the pipeline builds it."""
    torch.manual_seed(opt['manual_seed'])
    model = MODEL_REGISTRY.get(opt['model_type'])(copy.deepcopy(opt))
    model.train_loader = loader_beside_the_training(opt)
    return model


def trained(model, opt, first, last):
    """Iterations `first` to `last`, each on a batch that depends on the iteration alone."""
    loader = loader_beside_the_training(opt)
    for iteration in range(first, last + 1):
        loader.sampler.set_epoch(1000 + iteration)
        assert model.train_step(next(iter(loader)), iteration)
    return model


@torch.no_grad()
def accuracy(net, seed=1):
    """Of `net` as it is, on samples that were not trained on."""
    torch.manual_seed(seed)
    batch = torch.utils.data.default_collate([sample for sample in Stripes(20)])
    return (net(batch['image']).argmax(1) == batch['label']).float().mean().item()


def prepared(opt):
    model = begun(opt)
    model.before_training(model.train_loader)
    return model
