// The backbone and the depth decoder on the CPU, in float32: see docs/engines.md. Loaded by library.py.
//
// A row's sums are taken in one order that depends on nothing but the row: over the inputs one after the other in a
// product, over its own positions in attention. So an utterance gets the same bits in any batch, with any division of
// its prompt into chunks and with any number of threads.
//
// Rows of buffers are padded with zeros to a multiple of PANEL.

#include "product.h"
#include "sample.h"

namespace {

struct Layer {
    const float *attention_norm;
    Matrix qkv, output;
    const float *mlp_norm;
    Matrix gate_up, down;  // gate and up are padded one by one
};

// Where a row's keys and values are: its position, and the block table of its sequence.
struct Place {
    int32_t position;
    const int32_t *blocks;
};

struct Transformer {
    int64_t width, heads, kv_heads, head_dim, inner;
    float eps;
    int threads;
    std::vector<Layer> layers;
    const float *norm, *cos, *sin;  // cos and signed sin: [positions, head_dim]
    std::vector<float> x, normed, qkv, attended, hidden;
    std::vector<Place> places;

    int64_t stride() const { return padded(width); }
    int64_t attended_stride() const { return padded(heads * head_dim + LANES); }
    int64_t head_stride() const { return (head_dim + LANES - 1) / LANES * LANES; }
    int64_t block_size() const { return head_stride() * BLOCK; }  // floats of one head's keys or values in a block

    void reserve(int64_t rows) {
        places.resize(rows);
        if (int64_t(x.size()) >= rows * stride()) return;
        x.resize(rows * stride());
        normed.resize(rows * stride());
        qkv.resize(rows * padded((heads + 2 * kv_heads) * head_dim));
        attended.resize(rows * attended_stride());
        hidden.resize(rows * 2 * padded(inner));
    }

    void set_input(int64_t row, const float *values) {
        // What a row of NaN left in the padding would reach the next row here: `normalise` reads whole registers.
        std::fill(std::copy(values, values + width, &x[row * stride()]), x.data() + (row + 1) * stride(), 0.0f);
    }

    void normalise(const float *from, const float *scale, float *to) const {
        Vector squares = {};
        for (int64_t i = 0; i < width; i += LANES) squares += load(from + i) * load(from + i);
        const float factor = 1 / std::sqrt(sum(squares) / width + eps);
        for (int64_t i = 0; i < width; i++) to[i] = from[i] * factor * scale[i];
    }

    // Run the first `rows` rows of x, in place. pool: [layers, 2, num_blocks, kv_heads, block_size()].
    void run(int64_t rows, float *pool, int64_t num_blocks) {
        const int64_t qkv_stride = padded(layers[0].qkv.outputs), wide = attended_stride();
        const int64_t half = num_blocks * kv_heads * block_size();
        for (const Layer &layer : layers) {
            for (int64_t r = 0; r < rows; r++) normalise(&x[r * stride()], layer.attention_norm, &normed[r * stride()]);
            multiply(threads, normed.data(), stride(), rows, layer.qkv, qkv.data(), qkv_stride);
            for (int64_t r = 0; r < rows; r++) remember(&qkv[r * qkv_stride], places[r], pool, pool + half);
            const int64_t positions = places[rows - 1].position + 1;
            share(threads, rows, rows * positions * heads * head_dim, [&](int64_t r) {
                attend(&qkv[r * qkv_stride], places[r], pool, pool + half, &attended[r * wide]);
            });
            multiply<true>(threads, attended.data(), wide, rows, layer.output, x.data(), stride());
            for (int64_t r = 0; r < rows; r++) normalise(&x[r * stride()], layer.mlp_norm, &normed[r * stride()]);
            const int64_t side = padded(inner);
            multiply(threads, normed.data(), stride(), rows, layer.gate_up, hidden.data(), 2 * side);
            for (int64_t r = 0; r < rows; r++) {
                float *gate = &hidden[r * 2 * side];
                for (int64_t i = 0; i < inner; i += LANES) {
                    const Vector g = load(gate + i);
                    store(gate + i, g / (exponential(-g) + 1.0f) * load(gate + side + i));
                }
            }
            multiply<true>(threads, hidden.data(), 2 * side, rows, layer.down, x.data(), stride());
            pool += 2 * half;
        }
    }

    // Rotate q and k of a row in place, and write k and v into their block: keys [head_dim, BLOCK], values [BLOCK,
    // head_dim] for each key head.
    void remember(float *row, const Place &place, float *keys, float *values) const {
        const float *c = cos + place.position * head_dim, *s = sin + place.position * head_dim;
        for (int64_t h = 0; h < heads + kv_heads; h++) {
            float *a = row + h * head_dim, *b = a + head_dim / 2;
            for (int64_t i = 0; i < head_dim / 2; i++) {
                const float first = a[i], second = b[i];
                a[i] = first * c[i] + second * s[i];
                b[i] = second * c[i + head_dim / 2] + first * s[i + head_dim / 2];
            }
        }
        const int64_t at = place.position % BLOCK;
        const int64_t block = place.blocks[place.position / BLOCK] * kv_heads * block_size();
        for (int64_t h = 0; h < kv_heads; h++) {
            const float *k = row + (heads + h) * head_dim, *v = k + kv_heads * head_dim;
            float *to = keys + block + h * block_size();
            for (int64_t d = 0; d < head_dim; d++) to[d * BLOCK + at] = k[d];
            std::copy(v, v + head_dim, values + block + h * block_size() + at * head_stride());
        }
    }

    void attend(const float *q, const Place &place, const float *keys, const float *values, float *out) const {
        static thread_local std::vector<float> memory;
        const int64_t end = place.position + 1, blocks = (end + BLOCK - 1) / BLOCK;
        if (int64_t(memory.size()) < blocks * BLOCK) memory.resize(blocks * BLOCK);
        float *weights = memory.data();
        const int64_t shared = heads / kv_heads, size = block_size(), step = head_stride();
        const float scale = 1 / std::sqrt(float(head_dim));
        for (int64_t h = 0; h < heads; h++) {
            const int64_t of_head = h / shared * size;
            Vector top = all(LOWEST);
            for (int64_t b = 0; b < blocks; b++) {
                const float *k = keys + place.blocks[b] * kv_heads * size + of_head;
                Vector scores[VECTORS] = {};
                for (int64_t d = 0; d < head_dim; d++)
#pragma GCC unroll 8
                    for (int v = 0; v < VECTORS; v++)
                        scores[v] += load(k + d * BLOCK + v * LANES) * q[h * head_dim + d];
#pragma GCC unroll 8
                for (int v = 0; v < VECTORS; v++) {
                    const int64_t first = b * BLOCK + v * LANES;
                    const Vector score = lane_numbers() < int32_t(end - first) - Mask{} ? scores[v] * scale : all(LOWEST);
                    store(weights + first, score);
                    top = larger(top, score);
                }
            }
            const float highest = largest(top);
            Vector total = {};
            for (int64_t i = 0; i < blocks * BLOCK; i += LANES) {
                const Vector weight = exponential(load(weights + i) - highest);
                store(weights + i, weight);
                total += weight;
            }
            const float factor = 1 / sum(total);
            for (int64_t d = 0; d < head_dim; d += LANES) {
                Vector sums[4] = {};
                for (int64_t b = 0; b < blocks; b++) {
                    const float *v = values + place.blocks[b] * kv_heads * size + of_head + d;
                    const float *weight = weights + b * BLOCK;
                    const int64_t count = std::min<int64_t>(BLOCK, end - b * BLOCK);
                    int64_t i = 0;
                    for (; i + 4 <= count; i += 4)
                        for (int j = 0; j < 4; j++) sums[j] += load(v + (i + j) * step) * weight[i + j];
                    for (; i < count; i++) sums[0] += load(v + i * step) * weight[i];
                }
                // Lanes beyond the head are overwritten by the next head; those beyond the row are never read.
                store(out + h * head_dim + d, ((sums[0] + sums[1]) + (sums[2] + sums[3])) * factor);
            }
        }
    }
};

struct Depth {
    Transformer &transformer;
    int64_t codebooks, codes, vocab, width;  // width: the backbone's
    Matrix projection;
    const float *inputs, *embeddings;  // [(codebooks - 1) * vocab, depth width], [codebooks * vocab, width]
    std::vector<Matrix> heads;
    std::vector<float> pool, logits;
    std::vector<int32_t> table;
    Sampler sampler;

    int64_t columns() const { return (codebooks + BLOCK - 1) / BLOCK; }

    void frames(int64_t n, const float *hidden, const float *temperature, const int64_t *top_k, const float *noise,
                int64_t ranks, int64_t *out, float *embedding, float *all_logits) {
        Transformer &t = transformer;
        const int64_t wide = padded(codes);
        t.reserve(2 * n);
        logits.resize(n * wide);
        const int64_t size = t.layers.size() * 2 * n * columns() * t.kv_heads * t.block_size();
        if (int64_t(pool.size()) < size) pool.resize(size);
        for (int64_t b = table.size(); b < n * columns(); b++) table.push_back(b);

        const auto draw = [&](int64_t codebook, const float *x, int64_t stride) {
            multiply(t.threads, x, stride, n, heads[codebook], logits.data(), wide);
            for (int64_t r = 0; r < n; r++) {
                const float *row = &logits[r * wide];
                if (all_logits) std::copy(row, row + codes, all_logits + (r * codebooks + codebook) * codes);
                out[r * codebooks + codebook] = sampler.sample(row, codes, temperature[r], top_k[r],
                                                               noise + (r * codebooks + codebook) * ranks);
            }
        };
        const auto feed = [&](int64_t row, int64_t r, int64_t codebook) {
            t.set_input(row, inputs + (codebook * vocab + out[r * codebooks + codebook]) * t.width);
            t.places[row] = {int32_t(codebook + 1), &table[r * columns()]};
        };
        draw(0, hidden, width);
        multiply(t.threads, hidden, width, n, projection, t.x.data(), t.stride());
        for (int64_t r = 0; r < n; r++) t.places[r] = {0, &table[r * columns()]};
        for (int64_t codebook = 1; codebook < codebooks; codebook++) {
            const int64_t before = codebook == 1 ? n : 0;  // at first two positions of each frame
            for (int64_t r = 0; r < n; r++) feed(before + r, r, codebook - 1);
            t.run(before + n, pool.data(), n * columns());
            for (int64_t r = 0; r < n; r++)
                t.normalise(&t.x[(before + r) * t.stride()], t.norm, &t.normed[r * t.stride()]);
            draw(codebook, t.normed.data(), t.stride());
        }
        for (int64_t r = 0; r < n; r++) {
            float *to = embedding + r * width;
            std::fill(to, to + width, 0.0f);
            for (int64_t codebook = 0; codebook < codebooks; codebook++) {
                const float *from = embeddings + (codebook * vocab + out[r * codebooks + codebook]) * width;
                for (int64_t i = 0; i < width; i++) to[i] += from[i];
            }
        }
    }
};

}  // namespace

extern "C" {

// sizes: layers, width, heads, key heads, head size, inner width, threads. weights: attention norm, qkv, output, MLP
// norm, gate and up, down of each layer; then norm, cosines, sines.
Transformer *transformer_new(const int64_t *sizes, float eps, const float *const *weights) {
    auto *t = new Transformer();
    t->width = sizes[1], t->heads = sizes[2], t->kv_heads = sizes[3], t->head_dim = sizes[4], t->inner = sizes[5];
    t->threads = int(sizes[6]), t->eps = eps;
    const int64_t queries = t->heads * t->head_dim, qkv = queries + 2 * t->kv_heads * t->head_dim;
    for (int64_t n = 0; n < sizes[0]; n++, weights += 6)
        t->layers.push_back({weights[0], {weights[1], t->width, qkv}, {weights[2], queries, t->width}, weights[3],
                             {weights[4], t->width, 2 * padded(t->inner)}, {weights[5], t->inner, t->width}});
    t->norm = weights[0], t->cos = weights[1], t->sin = weights[2];
    return t;
}

// Compute packed rows: inputs [rows, width], the position of each and the row of its block table [sequences, columns];
// hidden [n, width]: the states of the rows `last` after the final norm. pool: zeros at first, [layers, 2, num_blocks,
// key heads, block_size()].
void transformer_forward(Transformer *t, int64_t rows, const float *inputs, const int32_t *positions,
                         const int32_t *sequences, const int32_t *blocks, int64_t columns, float *pool,
                         int64_t num_blocks, int64_t n, const int64_t *last, float *hidden) {
    t->reserve(rows);
    for (int64_t r = 0; r < rows; r++) {
        t->set_input(r, inputs + r * t->width);
        t->places[r] = {positions[r], blocks + sequences[r] * columns};
    }
    t->run(rows, pool, num_blocks);
    for (int64_t i = 0; i < n; i++) t->normalise(&t->x[last[i] * t->stride()], t->norm, hidden + i * t->width);
}

void transformer_free(Transformer *t) { delete t; }

// sizes: codebooks, codes, vocabulary, backbone width. weights: projection, inputs, embeddings, then the heads.
Depth *depth_new(Transformer *transformer, const int64_t *sizes, const float *const *weights) {
    const int64_t codebooks = sizes[0], codes = sizes[1], width = sizes[3];
    const Matrix projection = {weights[0], width, transformer->width};
    auto *d = new Depth{*transformer, codebooks, codes, sizes[2], width, projection, weights[1], weights[2], {}, {}, {},
                        {}, {}};
    for (int64_t codebook = 0; codebook < codebooks; codebook++)
        d->heads.push_back({weights[3 + codebook], codebook ? transformer->width : width, codes});
    return d;
}

// hidden [n, width], temperature [n], top_k [n], noise [n, codebooks, ranks] → codes [n, codebooks], embedding [n,
// width]; logits [n, codebooks, codes] or null.
void depth_forward(Depth *d, int64_t n, const float *hidden, const float *temperature, const int64_t *top_k,
                   const float *noise, int64_t ranks, int64_t *codes, float *embedding, float *logits) {
    if (n > 0) d->frames(n, hidden, temperature, top_k, noise, ranks, codes, embedding, logits);
}

void depth_free(Depth *d) { delete d; }

}  // extern "C"
