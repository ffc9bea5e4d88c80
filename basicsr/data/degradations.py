"""Degradations for real-world super-resolution, under BasicSR's names: blur kernels, noise and JPEG.

Functions whose names end in `_pt` work on batches of tensors, others on NumPy pictures.
"""

from basicsr.data.degradation_kernels import (
    bivariate_Gaussian,
    bivariate_generalized_Gaussian,
    bivariate_plateau,
    cdf2,
    circular_lowpass_kernel,
    mesh_grid,
    pdf2,
    random_bivariate_Gaussian,
    random_bivariate_generalized_Gaussian,
    random_bivariate_plateau,
    random_mixed_kernels,
    sigma_matrix2,
)
from basicsr.data.degradation_noise import (
    add_gaussian_noise,
    add_jpg_compression,
    add_poisson_noise,
    generate_gaussian_noise,
    generate_poisson_noise,
    random_add_gaussian_noise,
    random_add_jpg_compression,
    random_add_poisson_noise,
    random_generate_gaussian_noise,
    random_generate_poisson_noise,
)
from basicsr.data.degradation_noise_pt import (
    add_gaussian_noise_pt,
    add_poisson_noise_pt,
    generate_gaussian_noise_pt,
    generate_poisson_noise_pt,
    random_add_gaussian_noise_pt,
    random_add_poisson_noise_pt,
    random_generate_gaussian_noise_pt,
    random_generate_poisson_noise_pt,
)

__all__ = [
    'add_gaussian_noise',
    'add_gaussian_noise_pt',
    'add_jpg_compression',
    'add_poisson_noise',
    'add_poisson_noise_pt',
    'bivariate_Gaussian',
    'bivariate_generalized_Gaussian',
    'bivariate_plateau',
    'cdf2',
    'circular_lowpass_kernel',
    'generate_gaussian_noise',
    'generate_gaussian_noise_pt',
    'generate_poisson_noise',
    'generate_poisson_noise_pt',
    'mesh_grid',
    'pdf2',
    'random_add_gaussian_noise',
    'random_add_gaussian_noise_pt',
    'random_add_jpg_compression',
    'random_add_poisson_noise',
    'random_add_poisson_noise_pt',
    'random_bivariate_Gaussian',
    'random_bivariate_generalized_Gaussian',
    'random_bivariate_plateau',
    'random_generate_gaussian_noise',
    'random_generate_gaussian_noise_pt',
    'random_generate_poisson_noise',
    'random_generate_poisson_noise_pt',
    'random_mixed_kernels',
    'sigma_matrix2',
]
