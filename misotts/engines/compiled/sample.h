// Sampling with temperature and top-k.

#pragma once

#include "product.h"

namespace {

// Buffers of one thread.
struct Sampler {
    std::vector<float> best, values;
    std::vector<int32_t> chosen, found, ranks;

    // Sample one of `codes` codes: see misotts.engines.sampling.sample. Of equal logits the first code is the likelier.
    int64_t sample(const float *logits, int64_t codes, float temperature, int64_t top_k, const float *noise) {
        // The top_k groups with the largest maxima contain the top_k likeliest codes: a bound leaves few candidates.
        const int64_t groups = codes / (DEPTH * LANES) * LANES;
        values.resize(codes + LANES), found.resize(codes + LANES), ranks.resize(codes + LANES);
        int64_t count = 0;
        const auto keep = [&](int64_t code, float bound) {
            values[count] = logits[code];
            found[count] = code;
            count += logits[code] >= bound;
        };
        if (top_k <= groups) {
            const float bound = bound_of_groups(logits, groups, top_k);
            chosen.resize(groups + 1);
            int64_t passed = 0;
            for (int64_t g = 0; g < groups; g++) {
                chosen[passed] = g;
                passed += best[g] >= bound;
            }
            for (int64_t i = 0; i < passed; i++)
                for (int64_t j = 0; j < DEPTH; j++) keep(j * groups + chosen[i], bound);
            for (int64_t code = DEPTH * groups; code < codes; code++) keep(code, bound);
        } else {
            for (int64_t code = 0; code < codes; code++) keep(code, LOWEST);
        }
        for (int64_t i = 0; i < count; i += LANES) {
            const Vector value = load(&values[i]);
            const Mask code = load(&found[i]);
            Mask rank = {};
            for (int64_t j = 0; j < count; j++)
                rank -= (all(values[j]) > value) | ((all(values[j]) == value) & (found[j] - Mask{} < code));
            std::memcpy(&ranks[i], &rank, sizeof rank);
        }
        float highest = LOWEST;
        int64_t winner = 0, winners_rank = codes;
        for (int64_t i = 0; i < count; i++) {
            const int64_t rank = ranks[i];
            if (rank >= top_k) continue;
            const float score = values[i] / temperature + noise[rank];
            if (score > highest || (score == highest && rank < winners_rank))
                highest = score, winner = i, winners_rank = rank;
        }
        return found[winner];
    }

  private:
    static constexpr int64_t DEPTH = 8;  // codes of a group

    // Set `best` to the maxima of the groups, and return a bound that at least top_k of them reach.
    float bound_of_groups(const float *logits, int64_t groups, int64_t top_k) {
        best.resize(groups);
        Vector top = all(LOWEST), bottom = all(-LOWEST);
        for (int64_t g = 0; g < groups; g += LANES) {
            Vector most = load(logits + g);
            for (int64_t j = 1; j < DEPTH; j++) most = larger(most, load(logits + j * groups + g));
            store(&best[g], most);
            top = larger(top, most);
            bottom = most < bottom ? most : bottom;
        }
        float low = -largest(-bottom), high = largest(top);
        if (top_k == 1) return high;
        for (int round = 0; round < 12; round++) {
            const float middle = low + (high - low) * 0.5f;
            Mask above = {};
            for (int64_t g = 0; g < groups; g += LANES) above -= load(&best[g]) >= middle;
            int64_t count = 0;
            for (int lane = 0; lane < LANES; lane++) count += above[lane];
            (count >= top_k ? low : high) = middle;
            if (count == top_k) break;
        }
        return low;
    }
};

}  // namespace
