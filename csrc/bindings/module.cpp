#include "bindings/bindings.h"

PYBIND11_MODULE(_core, m) {
    m.doc() = "The compiled runtime of metadeploy. Use it through metadeploy.MetaLlama.";
    metadeploy::register_gil(m);
    metadeploy::register_errors(m);
    metadeploy::register_log(m);
    metadeploy::register_sidecar(m);
    metadeploy::register_engine(m);
    metadeploy::register_generation(m);
    metadeploy::register_microbench(m);
    metadeploy::register_inspect(m);
}
