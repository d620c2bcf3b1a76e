// Loads a base model with its context.
#pragma once

#include "common.h"

namespace metadeploy {

// Loads the model that params names, with a context whose sequences have n_ctx tokens each, and stores the size of the
// whole context in params. Throws model_load_error; option_error if a number is out of range; error if the chat
// template in params cannot be read.
common_init_result_ptr load_model(common_params & params);

} // namespace metadeploy
