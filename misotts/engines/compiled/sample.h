// Sampling with temperature and top-k.

#pragma once

#include "product.h"

namespace {

// Sample one of `codes` codes: see misotts.engines.sampling.sample. Of equal logits the first code is the likelier.
int64_t sample(const float *logits, int64_t codes, float temperature, int64_t top_k, const float *noise,
               std::vector<float> &values, std::vector<int32_t> &found) {
    // The top_k groups with the largest maxima contain the top_k likeliest codes: a bound leaves few candidates.
    constexpr int64_t DEPTH = 8;
    const int64_t groups = codes / (DEPTH * LANES) * LANES;
    float bound = LOWEST;
    if (top_k <= groups) {
        values.resize(groups);
        Vector top = all(LOWEST), bottom = all(-LOWEST);
        for (int64_t g = 0; g < groups; g += LANES) {
            Vector best = load(logits + g);
            for (int64_t j = 1; j < DEPTH; j++) best = larger(best, load(logits + j * groups + g));
            store(&values[g], best);
            top = larger(top, best);
            bottom = best < bottom ? best : bottom;
        }
        float low = -largest(-bottom), high = largest(top);
        for (int round = 0; round < 12; round++) {
            const float middle = low + (high - low) * 0.5f;
            Mask above = {};
            for (int64_t g = 0; g < groups; g += LANES) above -= load(&values[g]) >= middle;
            int64_t count = 0;
            for (int lane = 0; lane < LANES; lane++) count += above[lane];
            (count >= top_k ? low : high) = middle;
            if (count == top_k) break;
        }
        bound = low;
    }
    values.resize(codes + LANES);
    found.resize(codes);
    int64_t count = 0;
    for (int64_t c = 0; c < codes; c++) {
        values[count] = logits[c];
        found[count] = c;
        count += logits[c] >= bound;
    }
    for (int64_t i = count; i < count + LANES; i++) values[i] = LOWEST;
    float best = LOWEST;
    int64_t winner = 0, winners_rank = codes;
    for (int64_t i = 0; i < count; i++) {
        Mask before = {};
        for (int64_t j = 0; j < count; j += LANES) before -= load(&values[j]) > values[i];
        int64_t rank = 0;
        for (int lane = 0; lane < LANES; lane++) rank += before[lane];
        for (int64_t j = i; j-- > 0;) rank += values[j] == values[i];
        if (rank >= top_k) continue;
        const float score = values[i] / temperature + noise[rank];
        if (score > best || (score == best && rank < winners_rank)) best = score, winner = i, winners_rank = rank;
    }
    return found[winner];
}

}  // namespace
