// What is injected into a prompt and its answer.
#pragma once

#include "model/injection_schedule.h"
#include "model/sequence.h"
#include "model/wrapper.h"

#include <cstddef>
#include <optional>

namespace metadeploy {

struct injection {
    bool on = true;    // false: the base alone
    double gain = 1.0; // 0: the base alone, exactly
    injection_schedule schedule = {};
    std::optional<host_tensor> tokens = {}; // cognitive tokens [n_cog, n_embd]; if absent, they are encoded from pass 1
};

// meta in all functions below: the attached wrapper, or nullptr.

// Returns whether an injection changes anything. Throws error if its gain is not a number.
bool injects(const injection & inject, const wrapper * meta);

// Throws error if an injection contradicts itself or is out of range, and model_mismatch_error if its cognitive tokens
// are of another wrapper.
void check_injection(const injection & inject, const wrapper * meta);

// Returns the plan for the tokens of a prompt with n_prompt tokens and of its answer.
token_plan plan_injection(const injection & inject, const wrapper & meta, size_t n_prompt);

} // namespace metadeploy
