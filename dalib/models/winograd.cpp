// 3x3 convolutions by minimal filtering; winograd.py says what they compute, and what for.
#include <algorithm>
#include <cstring>
#include <vector>

namespace {

constexpr long STEP = 4;     // outputs of a tile, along a side
constexpr long FILTERS = 6;  // filters that three taps become, along a side
constexpr long LINE = 64;    // bytes of a line of the cache
constexpr long NARROW = 32, WIDE = 64;  // output channels that are computed together; which, winograd.py says
#ifdef __AVX512F__
constexpr long REGISTER = 64;  // bytes
constexpr long SUMS = 384;     // values of a product that registers hold at a time
constexpr long UNROLLED = 2;   // steps in depth; twice the addresses are too many for fewer registers
#else
constexpr long REGISTER = 32;
constexpr long SUMS = 96;
constexpr long UNROLLED = 1;
#endif

template <typename T>
struct Vector {
    typedef T Type __attribute__((vector_size(REGISTER)));
    static constexpr long LANES = REGISTER / sizeof(T);

    static Type load(const T* from) {
        Type value;
        std::memcpy(&value, from, REGISTER);
        return value;
    }
    static void store(T* to, Type value) { std::memcpy(to, &value, REGISTER); }
};

// How INPUTS values along a side become TERMS, and what their products sum to at POINTS becomes STEP outputs; results
// lie `apart`. BLOCK tiles go through the three stages together, in the processor's cache.
struct Stride1 {  // F(4, 3), with the points 0, 1, -1, 2, -2 and infinity
    static constexpr long STRIDE = 1, INPUTS = 6, TERMS = 6, POINTS = 6, BLOCK = 48;
    static constexpr long filter(long term) { return term; }

    template <typename V>
    static void transform_input(const V* d, V* t, long apart) {
        const V plus = d[4] - 4 * d[2], minus = d[3] - 4 * d[1], far = d[4] - d[2], near = 2 * (d[3] - d[1]);
        t[0] = 4 * d[0] - 5 * d[2] + d[4];
        t[apart] = plus + minus;
        t[2 * apart] = plus - minus;
        t[3 * apart] = far + near;
        t[4 * apart] = far - near;
        t[5 * apart] = 4 * d[1] - 5 * d[3] + d[5];
    }

    template <typename V>
    static void transform_output(const V* m, V* y, long apart) {
        const V near = m[1] + m[2], far = m[3] + m[4], odd_near = m[1] - m[2], odd_far = m[3] - m[4];
        y[0] = m[0] + near + far;
        y[apart] = odd_near + 2 * odd_far;
        y[2 * apart] = near + 4 * far;
        y[3 * apart] = odd_near + 8 * odd_far + m[5];
    }
};

// F(4, 2) of the outer taps, with the points 0, 1, -1, 2 and infinity. The middle tap only scales its four inputs; they
// become what transform_output makes them from, so that their products are summed at the first four points, too.
struct Stride2 {
    static constexpr long STRIDE = 2, INPUTS = 9, TERMS = 9, POINTS = 5, BLOCK = 24;
    static constexpr long filter(long term) { return std::min(term, FILTERS - 1); }

    template <typename V>
    static void transform_input(const V* d, V* t, long apart) {
        t[0] = 2 * (d[0] - d[4]) - d[2] + d[6];
        t[apart] = d[6] - d[4] - 2 * d[2];
        t[2 * apart] = d[6] - 3 * d[4] + 2 * d[2];
        t[3 * apart] = d[6] - d[2];
        t[4 * apart] = 2 * (d[2] - d[6]) - d[4] + d[8];
        const V sixth = (d[7] - d[3]) / 6;
        t[5 * apart] = d[1] - d[5] + 3 * sixth;
        t[6 * apart] = d[3] + (d[5] - d[7]) / 2;
        t[7 * apart] = (d[5] - d[3]) / 2 - sixth;
        t[8 * apart] = sixth;
    }

    template <typename V>
    static void transform_output(const V* m, V* y, long apart) {
        const V near = m[1] + m[2], odd = m[1] - m[2];
        y[0] = m[0] + near + m[3];
        y[apart] = odd + 2 * m[3];
        y[2 * apart] = near + 4 * m[3];
        y[3 * apart] = odd + 8 * m[3] + m[4];
    }
};

// c (R, N) = a (R, depth) b (depth, N), or c += to `add`; rows of c lie `width` apart. For each row of b a line of
// `ahead` is fetched, since the deepest layers wait for their filters; not into the nearest cache, which a and b fill.
template <typename T, long N, long R>
void multiply(const T* a, const T* b, T* c, long depth, long width, bool add, const T* ahead) {
    using V = Vector<T>;
    constexpr long COLUMNS = N / V::LANES;
    typename V::Type sums[R][COLUMNS] = {};
    if (add)
#pragma GCC unroll 16
        for (long r = 0; r < R; r++)
#pragma GCC unroll 16
            for (long i = 0; i < COLUMNS; i++) sums[r][i] = V::load(c + r * width + i * V::LANES);
#pragma GCC unroll UNROLLED
    for (long d = 0; d < depth; d++, b += N, ahead += LINE / sizeof(T)) {
        __builtin_prefetch(ahead, 0, 2);
#pragma GCC unroll 16
        for (long r = 0; r < R; r++)
#pragma GCC unroll 16
            for (long i = 0; i < COLUMNS; i++) sums[r][i] += a[r * depth + d] * V::load(b + i * V::LANES);
    }
#pragma GCC unroll 16
    for (long r = 0; r < R; r++)
#pragma GCC unroll 16
        for (long i = 0; i < COLUMNS; i++) V::store(c + r * width + i * V::LANES, sums[r][i]);
}

// The same for any number of rows.
template <typename T, long N, long R = SUMS / N>
void multiply_rows(long rows, const T* a, const T* b, T* c, long depth, long width, bool add, const T* ahead) {
    for (; rows >= R; rows -= R, a += R * depth, c += R * width, ahead += depth * LINE / long(sizeof(T)))
        multiply<T, N, R>(a, b, c, depth, width, add, ahead);
    if constexpr (R > 1) multiply_rows<T, N, R - 1>(rows, a, b, c, depth, width, add, ahead);
}

template <typename T, typename S>
class Convolution {
    using V = Vector<T>;
    using Lanes = typename V::Type;
    static constexpr long INPUTS = S::INPUTS, TERMS = S::TERMS, POINTS = S::POINTS;
    static constexpr long FACTORS = TERMS * TERMS, PLACES = POINTS * POINTS, AREA = STEP * STEP;  // of a tile

    const T* image;    // (B, H, W, C)
    const T* filters;  // (36, K / panel, C, panel)
    const T* bias;     // (K), or none
    T* output;         // (B, H / STRIDE, W / STRIDE, K), rounded up
    long batch, height, width, channels, outputs, panel, dilation;
    long out_height = (height - 1) / S::STRIDE + 1, out_width = (width - 1) / S::STRIDE + 1;
    std::vector<long> rows = starts(out_height), columns = starts(out_width);
    long down = rows.size(), across = columns.size();

   public:
    Convolution(const T* image, const T* filters, const T* bias, T* output, const long* shape, long dilation)
        : image(image), filters(filters), bias(bias), output(output), batch(shape[0]), height(shape[1]),
          width(shape[2]), channels(shape[3]), outputs(shape[4]), panel(shape[5]), dilation(dilation) {}

    void run(int threads) const {
        const long total = batch * down * across;
        const long size = std::min(S::BLOCK, (total - 1) / threads + 1);
#pragma omp parallel num_threads(threads)
        {
            // Kept, since mapping memory costs as much as using it; of whole registers, which keeps it aligned.
            static thread_local std::vector<Lanes> tiles, products;
            tiles.resize(FACTORS * apart(size, channels) / V::LANES);
            products.resize(PLACES * apart(size, outputs) / V::LANES);
            const std::vector<T> zeros(channels);
            std::vector<T> nowhere(outputs);
#pragma omp for
            for (long first = 0; first < total; first += size) {
                const long count = std::min(size, total - first);
                read(first, count, elements(tiles), zeros.data());
                product(count, elements(tiles), elements(products));
                write(first, count, elements(products), nowhere.data());
            }
        }
    }

   private:
    // Where tiles begin along a side of the output. What a dilated convolution makes of every dilation-th pixel is an
    // ordinary convolution of these, so that a tile takes its pixels that far apart.
    std::vector<long> starts(long size) const {
        std::vector<long> found;
        for (long phase = 0; phase < std::min(dilation, size); phase++)
            for (long start = phase; start < size; start += STEP * dilation) found.push_back(start);
        return found;
    }

    static T* elements(std::vector<Lanes>& lanes) { return reinterpret_cast<T*>(lanes.data()); }

    // From one matrix of a block to the next: a register more than it takes, lest all fall on one line of the cache.
    static long apart(long count, long width) { return count * width + V::LANES; }

    void read(long first, long count, T* tiles, const T* zeros) const {
        for (long n = 0; n < count; n++) {
            const long index = first + n, b = index / (down * across);
            const long top = rows[index / across % down] * S::STRIDE - dilation;
            const long left = columns[index % across] * S::STRIDE - dilation;
            const T* pixels[INPUTS * INPUTS];
            for (long i = 0; i < INPUTS * INPUTS; i++) {
                const long y = top + i / INPUTS * dilation, x = left + i % INPUTS * dilation;
                const bool inside = 0 <= y && y < height && 0 <= x && x < width;
                pixels[i] = inside ? image + ((b * height + y) * width + x) * channels : zeros;
            }
            for (long c = 0; c < channels; c += V::LANES) {
                Lanes columns[TERMS * INPUTS], values[FACTORS];
                for (long x = 0; x < INPUTS; x++) {
                    Lanes column[INPUTS];
                    for (long y = 0; y < INPUTS; y++) column[y] = V::load(pixels[y * INPUTS + x] + c);
                    S::transform_input(column, columns + x, INPUTS);
                }
                for (long y = 0; y < TERMS; y++) S::transform_input(columns + y * INPUTS, values + y * TERMS, 1);
                T* to = tiles + n * channels + c;
                for (long i = 0; i < FACTORS; i++) V::store(to + i * apart(count, channels), values[i]);
            }
        }
    }

    void product(long count, const T* tiles, T* products) const {
        const auto multiply_panel = panel == WIDE ? multiply_rows<T, WIDE> : multiply_rows<T, NARROW>;
        for (long i = 0; i < FACTORS; i++) {
            const long y = i / TERMS, x = i % TERMS;
            const bool add = y >= POINTS || x >= POINTS;  // more terms than points go on at the first of these
            const T* filter = filters + (S::filter(y) * FILTERS + S::filter(x)) * outputs * channels;
            const T* a = tiles + i * apart(count, channels);
            T* c = products + (y % POINTS * POINTS + x % POINTS) * apart(count, outputs);
            for (long k = 0; k < outputs; k += panel, filter += channels * panel)
                multiply_panel(count, a, filter, c + k, channels, outputs, add, filter + channels * panel);
        }
    }

    void write(long first, long count, const T* products, T* nowhere) const {
        for (long n = 0; n < count; n++) {
            const long index = first + n, b = index / (down * across);
            const long top = rows[index / across % down], left = columns[index % across];
            T* pixels[AREA];
            for (long i = 0; i < AREA; i++) {
                const long y = top + i / STEP * dilation, x = left + i % STEP * dilation;
                const bool inside = y < out_height && x < out_width;
                pixels[i] = inside ? output + ((b * out_height + y) * out_width + x) * outputs : nowhere;
            }
            for (long k = 0; k < outputs; k += V::LANES) {
                Lanes columns[STEP * POINTS], values[AREA];
                const T* from = products + n * outputs + k;
                for (long x = 0; x < POINTS; x++) {
                    Lanes column[POINTS];
                    for (long y = 0; y < POINTS; y++)
                        column[y] = V::load(from + (y * POINTS + x) * apart(count, outputs));
                    S::transform_output(column, columns + x, POINTS);
                }
                for (long y = 0; y < STEP; y++) S::transform_output(columns + y * POINTS, values + y * STEP, 1);
                const Lanes added = bias ? V::load(bias + k) : Lanes{};
                for (long i = 0; i < AREA; i++) V::store(pixels[i] + k, values[i] + added);
            }
        }
    }
};

template <typename T>
void convolve(
    const T* image, const T* filters, const T* bias, T* output, const long* shape, long stride, long dilation,
    int threads
) {
    if (stride == 1)
        Convolution<T, Stride1>(image, filters, bias, output, shape, dilation).run(threads);
    else
        Convolution<T, Stride2>(image, filters, bias, output, shape, dilation).run(threads);
}

}  // namespace

extern "C" void convolve_float32(
    const float* image, const float* filters, const float* bias, float* output, const long* shape, long stride,
    long dilation, int threads
) {
    convolve(image, filters, bias, output, shape, stride, dilation, threads);
}

extern "C" void convolve_float64(
    const double* image, const double* filters, const double* bias, double* output, const long* shape, long stride,
    long dilation, int threads
) {
    convolve(image, filters, bias, output, shape, stride, dilation, threads);
}
