// The selective scan on the CPU, forward and backward.
//
//   h_t = exp(delta_t A) h_(t-1) + delta_t B_t u_t        y_t = C_t . h_t + D u_t
//
// A vector holds one state of neighbouring channels, so that nothing is summed across lanes on the way: the states of a
// vector of channels stay in registers while time goes on. Time is cut into tiles; u and delta come in as (channel,
// time) and are transposed tile by tile. Forward keeps the states at the start of every tile, backward starts there and
// recomputes the rest.
//
// Shapes: u (batch, u_groups, dim, length), delta (batch, groups, dim, length), A (groups, dim, state), B, C (batch,
// groups, state, length), D, bias (groups, dim); all float32 and contiguous. Group g reads u of group g % u_groups. The
// last `backwards` groups are walked from the end of the sequence to its start.

#include <ATen/ATen.h>
#include <ATen/Parallel.h>
#include <ATen/cpu/vec/vec.h>
#include <torch/library.h>

#include <algorithm>
#include <cstring>
#include <optional>
#include <tuple>
#include <vector>

namespace {

using at::Tensor;
using Vec = at::vec::Vectorized<float>;
using Int = at::vec::Vectorized<int32_t>;

constexpr int64_t V = Vec::size();
constexpr int64_t T = 32;  // steps of a tile; a multiple of every vector's size

inline Vec load(const float* from) { return Vec::loadu(from); }

template <typename To, typename From>
inline To bits(const From& from) {
  static_assert(sizeof(To) == sizeof(From));
  To to;
  std::memcpy(static_cast<void*>(&to), static_cast<const void*>(&from), sizeof(To));
  return to;
}

// 2^x. Adding 1.5 * 2^23 leaves the nearest integer n in the low bits; 2^(x - n) is its Taylor polynomial (relative
// error 1.2e-7), and n goes straight into the exponent. NaN stays NaN; at the clamps the result is exactly 0 and Inf.
inline Vec exp2(Vec x) {
  x = at::vec::clamp_max(at::vec::clamp_min(x, Vec(-127.f)), Vec(128.f));
  const Vec magic(12582912.f);
  const Vec shifted = x + magic;
  const Vec f = x - (shifted - magic);
  Vec p = at::vec::fmadd(f, Vec(1.5403530e-4f), Vec(1.3333558e-3f));
  p = at::vec::fmadd(p, f, Vec(9.6181291e-3f));
  p = at::vec::fmadd(p, f, Vec(5.5504109e-2f));
  p = at::vec::fmadd(p, f, Vec(2.4022651e-1f));
  p = at::vec::fmadd(p, f, Vec(6.9314718e-1f));
  p = at::vec::fmadd(p, f, Vec(1.f));
  return bits<Vec>(bits<Int>(p) + (bits<Int>(shifted) << Int(23)));
}

constexpr float LOG2E = 1.4426950408889634f;

// softplus(x) = max(x, 0) + log1p(exp(-|x|)), the logarithm as 2 atanh(z / (2 + z)), z in [0, 1].
inline Vec softplus(const Vec& x) {
  const Vec z = exp2(x.abs() * Vec(-LOG2E));
  const Vec s = z / (z + Vec(2.f));
  const Vec q = s * s;
  Vec p = at::vec::fmadd(q, Vec(2.f / 13), Vec(2.f / 11));
  p = at::vec::fmadd(p, q, Vec(2.f / 9));
  p = at::vec::fmadd(p, q, Vec(2.f / 7));
  p = at::vec::fmadd(p, q, Vec(2.f / 5));
  p = at::vec::fmadd(p, q, Vec(2.f / 3));
  p = at::vec::fmadd(p, q, Vec(2.f));
  // max(x, 0) as (x + |x|) / 2, which keeps NaN.
  return at::vec::fmadd(p, s, (x + x.abs()) * Vec(0.5f));
}

inline Vec sigmoid(const Vec& x) {
  const Vec z = exp2(x.abs() * Vec(-LOG2E));
  const Vec large = Vec(1.f) / (z + Vec(1.f));
  return Vec::blendv(large, z * large, x < Vec(0.f));
}

// (channels, steps), rows `stride` apart -> (steps, V); channels that are not there become 0.
void enter(const float* from, int64_t stride, int64_t channels, int64_t steps, float* to) {
  if (channels == V && steps == T) {
    for (int64_t t = 0; t < T; t += V) {
      at::vec::transpose_mxn<float, V, V>(from + t, stride, to + t * V, V);
    }
    return;
  }
  for (int64_t t = 0; t < steps; ++t) {
    for (int64_t c = 0; c < V; ++c) {
      to[t * V + c] = c < channels ? from[c * stride + t] : 0.f;
    }
  }
}

// The way back.
void leave(const float* from, int64_t channels, int64_t steps, float* to, int64_t stride) {
  if (channels == V && steps == T) {
    for (int64_t t = 0; t < T; t += V) {
      at::vec::transpose_mxn<float, V, V>(from + t * V, V, to + t, stride);
    }
    return;
  }
  for (int64_t c = 0; c < channels; ++c) {
    for (int64_t t = 0; t < steps; ++t) {
      to[c * stride + t] = from[t * V + c];
    }
  }
}

struct Sizes {
  int64_t batch, groups, u_groups, dim, length, state, backwards;
  int64_t vectors() const { return (dim + V - 1) / V; }
  int64_t tiles() const { return (length + T - 1) / T; }
  bool reversed(int64_t group) const { return group >= groups - backwards; }
};

// One tile of one (batch, group): where it lies in memory, and the order in which its steps are walked.
struct Tile {
  int64_t start, steps;
  bool reversed;
  Tile(const Sizes& s, int64_t index, bool reversed)
      : start(reversed ? std::max<int64_t>(0, s.length - (index + 1) * T) : index * T),
        steps(std::min(T, s.length - index * T)),
        reversed(reversed) {}
  int64_t step(int64_t walked) const { return reversed ? steps - 1 - walked : walked; }
};

// (state, steps), rows `stride` apart -> (steps, state)
void enter_matrix(const float* from, int64_t stride, int64_t state, int64_t steps, float* to) {
  for (int64_t n = 0; n < state; ++n) {
    for (int64_t t = 0; t < steps; ++t) {
      to[t * state + n] = from[n * stride + t];
    }
  }
}

// A[channel][state] of one vector of channels -> (state, V), times `factor`; missing channels become 0.
void enter_decay(const float* from, int64_t channels, int64_t state, float factor, float* to) {
  for (int64_t n = 0; n < state; ++n) {
    for (int64_t c = 0; c < V; ++c) {
      to[n * V + c] = c < channels ? from[c * state + n] * factor : 0.f;
    }
  }
}

// What of a tile is the same in forward and backward: u, delta (after bias and softplus), delta * u, each (steps, V).
struct Channels {
  float u[T * V], delta[T * V], input[T * V];

  void read(const float* u_from, const float* delta_from, int64_t stride, int64_t channels, int64_t steps,
            const float* bias, bool with_softplus) {
    enter(u_from, stride, channels, steps, u);
    enter(delta_from, stride, channels, steps, delta);
    const Vec shift = bias ? Vec::loadu(bias, channels) : Vec(0.f);
    for (int64_t t = 0; t < steps; ++t) {
      Vec d = load(delta + t * V) + shift;
      if (with_softplus) {
        d = softplus(d);
      }
      d.store(delta + t * V);
      (d * load(u + t * V)).store(input + t * V);
    }
  }
};

// N states of one vector of channels through one tile. A2 is A log2(e); `y` is added to.
template <int N>
void walk(const Tile& tile, const Channels& x, const float* A2, const float* B, const float* C, int64_t state, float* h,
          float* y) {
  Vec states[N];
  for (int n = 0; n < N; ++n) {
    states[n] = load(h + n * V);
  }
  for (int64_t walked = 0; walked < tile.steps; ++walked) {
    const int64_t t = tile.step(walked);
    const Vec delta = load(x.delta + t * V), input = load(x.input + t * V);
    Vec even = load(y + t * V), odd(0.f);
#pragma GCC unroll 16
    for (int n = 0; n < N; ++n) {
      const Vec decay = exp2(delta * load(A2 + n * V));
      states[n] = at::vec::fmadd(states[n], decay, input * Vec(B[t * state + n]));
      Vec& sum = n % 2 ? odd : even;
      sum = at::vec::fmadd(states[n], Vec(C[t * state + n]), sum);
    }
    (even + odd).store(y + t * V);
  }
  for (int n = 0; n < N; ++n) {
    states[n].store(h + n * V);
  }
}

// Gradients of N states through one tile, from its end to its start. `h` are the states before it, `g` the gradient by
// the states after it, on return by those before. grad_input, grad_exponent: (steps, V), by delta * u and by delta
// through the decay; grad_B, grad_C: (steps, state, V), not yet summed over channels. All are added to.
template <int N>
void walk_back(const Tile& tile, const Channels& x, const float* A, const float* A2, const float* B, const float* C,
               int64_t state, const float* grad_y, const float* h, float* g, float* grad_A, float* grad_input,
               float* grad_exponent, float* grad_B, float* grad_C) {
  alignas(64) float decays[T * N * V], states[(T + 1) * N * V];
  for (int n = 0; n < N; ++n) {
    load(h + n * V).store(states + n * V);
  }
  for (int64_t walked = 0; walked < tile.steps; ++walked) {
    const int64_t t = tile.step(walked);
    const Vec delta = load(x.delta + t * V), input = load(x.input + t * V);
#pragma GCC unroll 8
    for (int n = 0; n < N; ++n) {
      const Vec decay = exp2(delta * load(A2 + n * V));
      decay.store(decays + (walked * N + n) * V);
      at::vec::fmadd(load(states + (walked * N + n) * V), decay, input * Vec(B[t * state + n]))
          .store(states + ((walked + 1) * N + n) * V);
    }
  }
  Vec adjoint[N], by_A[N];
  for (int n = 0; n < N; ++n) {
    adjoint[n] = load(g + n * V);
    by_A[n] = load(grad_A + n * V);
  }
  for (int64_t walked = tile.steps - 1; walked >= 0; --walked) {
    const int64_t t = tile.step(walked);
    const Vec delta = load(x.delta + t * V), input = load(x.input + t * V), gradient = load(grad_y + t * V);
    Vec by_input = load(grad_input + t * V), by_delta = load(grad_exponent + t * V);
#pragma GCC unroll 8
    for (int n = 0; n < N; ++n) {
      const Vec by_state = at::vec::fmadd(gradient, Vec(C[t * state + n]), adjoint[n]);
      float* to_B = grad_B + (t * state + n) * V;
      float* to_C = grad_C + (t * state + n) * V;
      at::vec::fmadd(gradient, load(states + ((walked + 1) * N + n) * V), load(to_C)).store(to_C);
      at::vec::fmadd(by_state, input, load(to_B)).store(to_B);
      by_input = at::vec::fmadd(by_state, Vec(B[t * state + n]), by_input);
      adjoint[n] = by_state * load(decays + (walked * N + n) * V);
      const Vec by_exponent = adjoint[n] * load(states + (walked * N + n) * V);
      by_delta = at::vec::fmadd(by_exponent, load(A + n * V), by_delta);
      by_A[n] = at::vec::fmadd(by_exponent, delta, by_A[n]);
    }
    by_input.store(grad_input + t * V);
    by_delta.store(grad_exponent + t * V);
  }
  for (int n = 0; n < N; ++n) {
    adjoint[n].store(g + n * V);
    by_A[n].store(grad_A + n * V);
  }
}

// Calls `run(std::integral_constant<int, N>, first)` for blocks of states that make up `state`, of at most `Most`.
template <int Most, typename Run>
void in_blocks(int64_t state, Run&& run) {
  int64_t first = 0;
  while (first < state) {
    const int64_t left = state - first;
    if (Most >= 16 && left >= 16) {
      run(std::integral_constant<int, 16>{}, first);
      first += 16;
    } else if (left >= 8) {
      run(std::integral_constant<int, 8>{}, first);
      first += 8;
    } else if (left >= 4) {
      run(std::integral_constant<int, 4>{}, first);
      first += 4;
    } else if (left >= 2) {
      run(std::integral_constant<int, 2>{}, first);
      first += 2;
    } else {
      run(std::integral_constant<int, 1>{}, first);
      first += 1;
    }
  }
}

const float* pointer(const std::optional<Tensor>& tensor) {
  return tensor.has_value() ? tensor->const_data_ptr<float>() : nullptr;
}

Sizes sizes_of(const Tensor& u, const Tensor& delta, const Tensor& A, const Tensor& B, int64_t backwards) {
  return {delta.size(0), delta.size(1), u.size(1), delta.size(2), delta.size(3), A.size(2), backwards};
}

// Channel vectors are shared out among `parts` tasks a (batch, group), so that all threads have work.
int64_t parts_of(const Sizes& s) {
  const int64_t rows = std::max<int64_t>(1, s.batch * s.groups);
  return std::clamp<int64_t>((at::get_num_threads() + rows - 1) / rows, 1, std::max<int64_t>(1, s.vectors()));
}

// y, and the states at the start of every tile (batch, groups, tiles, vectors, state, V), empty unless `keep`.
std::tuple<Tensor, Tensor> forward(const Tensor& u, const Tensor& delta, const Tensor& A, const Tensor& B,
                                   const Tensor& C, const std::optional<Tensor>& D, const std::optional<Tensor>& bias,
                                   bool with_softplus, int64_t backwards, bool keep) {
  const Sizes s = sizes_of(u, delta, A, B, backwards);
  const int64_t vectors = s.vectors(), tiles = s.tiles(), parts = parts_of(s), state = s.state;
  Tensor y = at::empty_like(delta);
  Tensor kept = at::empty({keep ? s.batch : 0, s.groups, tiles, vectors, state, V}, delta.options());
  const float *u_data = u.const_data_ptr<float>(), *delta_data = delta.const_data_ptr<float>();
  const float *A_data = A.const_data_ptr<float>(), *B_data = B.const_data_ptr<float>();
  const float *C_data = C.const_data_ptr<float>(), *D_data = pointer(D), *bias_data = pointer(bias);
  float *y_data = y.data_ptr<float>(), *kept_data = kept.data_ptr<float>();

  at::parallel_for(0, s.batch * s.groups * parts, 1, [&](int64_t begin, int64_t end) {
    Channels x;
    alignas(64) float y_tile[T * V];
    std::vector<float> B_tile(T * state), C_tile(T * state);
    for (int64_t task = begin; task < end; ++task) {
      const int64_t row = task / parts, part = task % parts, b = row / s.groups, g = row % s.groups;
      const int64_t first = vectors * part / parts, last = vectors * (part + 1) / parts;
      const int64_t u_row = b * s.u_groups + g % s.u_groups;
      std::vector<float> h((last - first) * state * V, 0.f), A2((last - first) * state * V);
      for (int64_t v = first; v < last; ++v) {
        enter_decay(A_data + (g * s.dim + v * V) * state, std::min(V, s.dim - v * V), state, LOG2E,
                    A2.data() + (v - first) * state * V);
      }
      for (int64_t index = 0; index < tiles; ++index) {
        const Tile tile(s, index, s.reversed(g));
        enter_matrix(B_data + row * state * s.length + tile.start, s.length, state, tile.steps, B_tile.data());
        enter_matrix(C_data + row * state * s.length + tile.start, s.length, state, tile.steps, C_tile.data());
        for (int64_t v = first; v < last; ++v) {
          const int64_t c = v * V, channels = std::min(V, s.dim - c);
          float* states = h.data() + (v - first) * state * V;
          if (keep) {
            std::memcpy(kept_data + ((row * tiles + index) * vectors + v) * state * V, states,
                        sizeof(float) * state * V);
          }
          x.read(u_data + (u_row * s.dim + c) * s.length + tile.start,
                 delta_data + (row * s.dim + c) * s.length + tile.start, s.length, channels, tile.steps,
                 bias_data ? bias_data + g * s.dim + c : nullptr, with_softplus);
          const Vec skip = D_data ? Vec::loadu(D_data + g * s.dim + c, channels) : Vec(0.f);
          for (int64_t t = 0; t < tile.steps; ++t) {
            (D_data ? skip * load(x.u + t * V) : Vec(0.f)).store(y_tile + t * V);
          }
          in_blocks<16>(state, [&](auto size, int64_t n) {
            walk<decltype(size)::value>(tile, x, A2.data() + ((v - first) * state + n) * V, B_tile.data() + n,
                                        C_tile.data() + n, state, states + n * V, y_tile);
          });
          leave(y_tile, channels, tile.steps, y_data + (row * s.dim + c) * s.length + tile.start, s.length);
        }
      }
    }
  });
  return {y, kept};
}

// Adds up the lanes: (count, V) -> (count), written `stride` apart.
void sum_lanes(const float* from, int64_t count, float* to, int64_t stride) {
  for (int64_t i = 0; i < count; ++i) {
    float sum = 0.f;
    for (int64_t c = 0; c < V; ++c) {
      sum += from[i * V + c];
    }
    to[i * stride] = sum;
  }
}

// Gradients by u (batch, groups, dim, length), delta, A (batch, …), B, C (parts, …), D, bias (batch, …); the caller sums
// over the leading dimension that each has too many.
std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor> backward(
    const Tensor& grad, const Tensor& u, const Tensor& delta, const Tensor& A, const Tensor& B, const Tensor& C,
    const std::optional<Tensor>& D, const std::optional<Tensor>& bias, const Tensor& kept, bool with_softplus,
    int64_t backwards) {
  const Sizes s = sizes_of(u, delta, A, B, backwards);
  const int64_t vectors = s.vectors(), tiles = s.tiles(), parts = parts_of(s), state = s.state, length = s.length;
  Tensor grad_u = at::empty_like(delta), grad_delta = at::empty_like(delta);
  Tensor grad_A = at::empty({s.batch, s.groups, s.dim, state}, A.options());
  Tensor grad_B = at::empty({parts, s.batch, s.groups, state, length}, B.options()), grad_C = at::empty_like(grad_B);
  Tensor grad_D = at::empty({s.batch, s.groups, s.dim}, A.options()), grad_bias = at::empty_like(grad_D);
  const float *grad_data = grad.const_data_ptr<float>(), *u_data = u.const_data_ptr<float>();
  const float *delta_data = delta.const_data_ptr<float>(), *A_data = A.const_data_ptr<float>();
  const float *B_data = B.const_data_ptr<float>(), *C_data = C.const_data_ptr<float>();
  const float *D_data = pointer(D), *bias_data = pointer(bias), *kept_data = kept.const_data_ptr<float>();
  float *to_u = grad_u.data_ptr<float>(), *to_delta = grad_delta.data_ptr<float>(), *to_A = grad_A.data_ptr<float>();
  float *to_B = grad_B.data_ptr<float>(), *to_C = grad_C.data_ptr<float>();
  float *to_D = grad_D.data_ptr<float>(), *to_bias = grad_bias.data_ptr<float>();

  at::parallel_for(0, s.batch * s.groups * parts, 1, [&](int64_t begin, int64_t end) {
    Channels x;
    alignas(64) float raw[T * V], grad_y[T * V], by_input[T * V], by_exponent[T * V];
    std::vector<float> B_tile(T * state), C_tile(T * state), by_B(T * state * V), by_C(T * state * V);
    for (int64_t task = begin; task < end; ++task) {
      const int64_t row = task / parts, part = task % parts, b = row / s.groups, g = row % s.groups;
      const int64_t first = vectors * part / parts, last = vectors * (part + 1) / parts, own = last - first;
      const int64_t u_row = b * s.u_groups + g % s.u_groups;
      std::vector<float> A1(own * state * V), A2(own * state * V), adjoint(own * state * V, 0.f);
      std::vector<float> by_A(own * state * V, 0.f), by_D(own * V, 0.f), by_bias(own * V, 0.f);
      for (int64_t v = first; v < last; ++v) {
        const float* from = A_data + (g * s.dim + v * V) * state;
        enter_decay(from, std::min(V, s.dim - v * V), state, 1.f, A1.data() + (v - first) * state * V);
        enter_decay(from, std::min(V, s.dim - v * V), state, LOG2E, A2.data() + (v - first) * state * V);
      }
      for (int64_t index = tiles - 1; index >= 0; --index) {
        const Tile tile(s, index, s.reversed(g));
        enter_matrix(B_data + row * state * length + tile.start, length, state, tile.steps, B_tile.data());
        enter_matrix(C_data + row * state * length + tile.start, length, state, tile.steps, C_tile.data());
        std::fill(by_B.begin(), by_B.end(), 0.f);
        std::fill(by_C.begin(), by_C.end(), 0.f);
        for (int64_t v = first; v < last; ++v) {
          const int64_t c = v * V, channels = std::min(V, s.dim - c), at_state = (v - first) * state;
          const int64_t place = (row * s.dim + c) * length + tile.start;
          const float* shift = bias_data ? bias_data + g * s.dim + c : nullptr;
          x.read(u_data + (u_row * s.dim + c) * length + tile.start, delta_data + place, length, channels, tile.steps,
                 shift, with_softplus);
          enter(grad_data + place, length, channels, tile.steps, grad_y);
          std::memset(by_input, 0, sizeof(by_input));
          std::memset(by_exponent, 0, sizeof(by_exponent));
          const float* before = kept_data + ((row * tiles + index) * vectors + v) * state * V;
          in_blocks<8>(state, [&](auto size, int64_t n) {
            const int64_t at = (at_state + n) * V;
            walk_back<decltype(size)::value>(tile, x, A1.data() + at, A2.data() + at, B_tile.data() + n,
                                             C_tile.data() + n, state, grad_y, before + n * V, adjoint.data() + at,
                                             by_A.data() + at, by_input, by_exponent, by_B.data() + n * V,
                                             by_C.data() + n * V);
          });
          if (with_softplus) {
            enter(delta_data + place, length, channels, tile.steps, raw);
          }
          const Vec skip = D_data ? Vec::loadu(D_data + g * s.dim + c, channels) : Vec(0.f);
          const Vec offset = shift ? Vec::loadu(shift, channels) : Vec(0.f);
          Vec sum_D = load(by_D.data() + (v - first) * V), sum_bias = load(by_bias.data() + (v - first) * V);
          for (int64_t t = 0; t < tile.steps; ++t) {
            const Vec gradient = load(grad_y + t * V), input = load(by_input + t * V), u_t = load(x.u + t * V);
            Vec by_delta = at::vec::fmadd(input, u_t, load(by_exponent + t * V));
            if (with_softplus) {
              by_delta = by_delta * sigmoid(load(raw + t * V) + offset);
            }
            sum_D = at::vec::fmadd(gradient, u_t, sum_D);
            sum_bias = sum_bias + by_delta;
            by_delta.store(by_exponent + t * V);
            at::vec::fmadd(input, load(x.delta + t * V), gradient * skip).store(by_input + t * V);
          }
          sum_D.store(by_D.data() + (v - first) * V);
          sum_bias.store(by_bias.data() + (v - first) * V);
          leave(by_input, channels, tile.steps, to_u + place, length);
          leave(by_exponent, channels, tile.steps, to_delta + place, length);
        }
        const int64_t matrix = (part * s.batch * s.groups + row) * state * length + tile.start;
        for (int64_t t = 0; t < tile.steps; ++t) {
          sum_lanes(by_B.data() + t * state * V, state, to_B + matrix + t, length);
          sum_lanes(by_C.data() + t * state * V, state, to_C + matrix + t, length);
        }
      }
      for (int64_t v = first; v < last; ++v) {
        const int64_t c = v * V, channels = std::min(V, s.dim - c), at_state = (v - first) * state;
        for (int64_t i = 0; i < channels; ++i) {
          to_D[row * s.dim + c + i] = by_D[(v - first) * V + i];
          to_bias[row * s.dim + c + i] = by_bias[(v - first) * V + i];
          for (int64_t n = 0; n < state; ++n) {
            to_A[(row * s.dim + c + i) * state + n] = by_A[(at_state + n) * V + i];
          }
        }
      }
    }
  });
  return {grad_u, grad_delta, grad_A, grad_B, grad_C, grad_D, grad_bias};
}

}  // namespace

TORCH_LIBRARY_FRAGMENT(basicsr_cpu, m) {
  m.def(
      "scan_forward(Tensor u, Tensor delta, Tensor A, Tensor B, Tensor C, Tensor? D, Tensor? bias, bool softplus, "
      "int backwards, bool keep) -> (Tensor, Tensor)",
      &forward);
  m.def(
      "scan_backward(Tensor grad, Tensor u, Tensor delta, Tensor A, Tensor B, Tensor C, Tensor? D, Tensor? bias, "
      "Tensor kept, bool softplus, int backwards) -> (Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor)",
      &backward);
}
