#include "bindings/bindings.h"
#include "bindings/integers.h"
#include "bindings/interrupt.h"
#include "generation/batch_scheduler.h"

#include <optional>
#include <tuple>

namespace py = pybind11;

namespace metadeploy {

namespace {

py::list to_py(engine & eng, const std::vector<token_logprob> & items) {
    py::list list;
    for (const token_logprob & item : items) {
        py::list top;
        for (const auto & [token, logprob] : item.top) {
            top.append(py::make_tuple(token, py::bytes(eng.piece(token)), to_str(eng.name(token)), logprob));
        }
        list.append(py::make_tuple(item.token, py::bytes(item.piece), item.logprob, top));
    }
    return list;
}

using decay_tuple = std::tuple<double, double>;
using refresh_tuple = std::tuple<double, py::object, py::object>;

std::optional<decay_tuple> get_decay(const generation_params & p) {
    const std::optional<decay_settings> & decay = p.inject.schedule.decay;
    return decay ? std::optional(decay_tuple(decay->floor, decay->tau)) : std::nullopt;
}

void set_decay(generation_params & p, const std::optional<decay_tuple> & value) {
    p.inject.schedule.decay.reset();
    if (value) {
        p.inject.schedule.decay = {std::get<0>(*value), std::get<1>(*value)};
    }
}

std::optional<refresh_tuple> get_refresh(const generation_params & p) {
    const std::optional<refresh_settings> & refresh = p.inject.schedule.refresh;
    return refresh ? std::optional(refresh_tuple(
                         refresh->threshold, py::int_(refresh->min_interval), py::int_(refresh->max_interval)))
                   : std::nullopt;
}

void set_refresh(generation_params & p, const std::optional<refresh_tuple> & value) {
    p.inject.schedule.refresh.reset();
    if (value) {
        const auto interval = [](const char * name, const py::object & tokens) {
            return to_integer(name, tokens, 1, std::numeric_limits<int32_t>::max());
        };
        p.inject.schedule.refresh = {
            std::get<0>(*value), interval("min_interval", std::get<1>(*value)),
            interval("max_interval", std::get<2>(*value))};
    }
}

using float_array = py::array_t<float, py::array::c_style | py::array::forcecast>;

py::object get_tokens(const generation_params & p) {
    const std::optional<host_tensor> & tokens = p.inject.tokens;
    return tokens ? py::object(to_numpy(tokens->data, tokens->shape)) : py::none();
}

void set_tokens(generation_params & p, const std::optional<float_array> & value) {
    p.inject.tokens.reset();
    if (value) {
        p.inject.tokens = {
            {value->shape(), value->shape() + value->ndim()}, {value->data(), value->data() + value->size()}};
    }
}

// [(first token, number of tokens, first byte, end byte, means [n_layers, n_embd], last of the same shape, figures)],
// the whole answer last
py::list sentences_of(const answer_features & features, int64_t n_embd) {
    const auto rows_of = [&](const std::vector<float> & values) {
        return to_numpy(values, {(py::ssize_t)((int64_t)values.size() / n_embd), (py::ssize_t)n_embd});
    };
    const auto row = [&](size_t first, size_t n, size_t begin, size_t end, const std::vector<float> & means,
                         const std::vector<float> & last, const figure_array & figures) {
        const std::vector<float> values(figures.begin(), figures.end());
        return py::make_tuple(
            first, n, begin, end, rows_of(means), rows_of(last), to_numpy(values, {(py::ssize_t)values.size()}));
    };
    py::list list;
    for (const sentence_features & sentence : features.sentences()) {
        list.append(
            row(sentence.first_token, sentence.n_tokens, sentence.begin, sentence.end, sentence.means, sentence.last,
                sentence.figures));
    }
    const feature_window & answer = features.answer();
    list.append(row(0, features.n_tokens(), 0, features.n_bytes(), answer.means(), answer.last(), answer.figures()));
    return list;
}

class py_scheduler {
public:
    explicit py_scheduler(py::object engine_) : engine_object(std::move(engine_)), impl(engine_of(engine_object)) {}

    // [(id, text, token ids, logprobs, answer or error)]
    py::list step(const py::object & cancel) {
        engine & eng = engine_of(engine_object);
        const std::vector<batch_scheduler::event> events = run_interruptible(eng, cancel, [&] { return impl.step(); });
        py::list list;
        for (const batch_scheduler::event & each : events) {
            const py::object answer = each.fault ? error_object(each.fault) : py::cast(each.answer);
            list.append(
                py::make_tuple(
                    each.id, to_str(each.out.text), each.out.tokens, to_py(eng, each.out.logprobs), each.more, answer));
        }
        return list;
    }

    size_t add(const py::iterable & prompt, const generation_params & params) {
        (void)engine_of(engine_object); // throws if it is closed
        return impl.add(to_tokens(prompt), params);
    }

    void cancel(size_t id) { impl.cancel(id); }
    size_t n_free() const { return impl.n_free(); }

private:
    py::object engine_object; // keeps the engine alive
    batch_scheduler impl;
};

} // namespace

void register_generation(py::module_ & m) {
    constexpr int64_t most = std::numeric_limits<int32_t>::max();
    m.attr("FIGURE_NAMES") = py::cast(std::vector<std::string>(FIGURE_NAMES.begin(), FIGURE_NAMES.end()));
    py::class_<generation_params> params(m, "GenerationParams", "How to answer; the fields of MetaLlama.generate.");
    def_integer(params, "max_tokens", &generation_params::max_tokens, -1);
    def_integer(params, "n_logprobs", &generation_params::n_logprobs, -1);
    params.def(py::init<>())
        .def_readwrite("stop", &generation_params::stop)
        .def_readwrite("doubt_threshold", &generation_params::doubt_threshold)
        .def_property(
            "max_error", [](const generation_params & p) { return p.policy.max_error; },
            [](generation_params & p, const std::optional<double> & value) { p.policy.max_error = value; })
        .def_property(
            "max_p_wrong", [](const generation_params & p) { return p.policy.max_p_wrong; },
            [](generation_params & p, const std::optional<double> & value) { p.policy.max_p_wrong = value; })
        .def_property(
            "withhold", [](const generation_params & p) { return p.policy.withhold; },
            [](generation_params & p, bool value) { p.policy.withhold = value; })
        .def_property(
            "inject", [](const generation_params & p) { return p.inject.on; },
            [](generation_params & p, bool on) { p.inject.on = on; })
        .def_property(
            "gain", [](const generation_params & p) { return p.inject.gain; },
            [](generation_params & p, double gain) { p.inject.gain = gain; })
        .def_property("decay", get_decay, set_decay)
        .def_property(
            "window", [](const generation_params & p) { return p.inject.schedule.window; },
            [](generation_params & p, const py::object & value) {
                p.inject.schedule.window.reset();
                if (!value.is_none()) {
                    p.inject.schedule.window = to_integer("window", value, 0, most);
                }
            })
        .def_property("refresh", get_refresh, set_refresh)
        .def_property("cognitive_tokens", get_tokens, set_tokens)
        .def_property(
            "temperature", [](const generation_params & p) { return p.sampling.temp; },
            [](generation_params & p, float value) { p.sampling.temp = value; })
        .def_property(
            "top_k", [](const generation_params & p) { return p.sampling.top_k; },
            [](generation_params & p, const py::object & value) {
                p.sampling.top_k = (int32_t)to_integer("top_k", value, -most, most);
            })
        .def_property(
            "top_p", [](const generation_params & p) { return p.sampling.top_p; },
            [](generation_params & p, float value) { p.sampling.top_p = value; })
        .def_property(
            "min_p", [](const generation_params & p) { return p.sampling.min_p; },
            [](generation_params & p, float value) { p.sampling.min_p = value; })
        .def_property(
            "repeat_penalty", [](const generation_params & p) { return p.sampling.penalty_repeat; },
            [](generation_params & p, float value) { p.sampling.penalty_repeat = value; })
        .def_property(
            "seed", [](const generation_params & p) { return p.sampling.seed; },
            [](generation_params & p, const py::object & value) {
                p.sampling.seed = (uint32_t)to_integer("seed", value, 0, std::numeric_limits<uint32_t>::max());
            });

    py::class_<timings>(m, "Timings", "Where the time of an answer went, in milliseconds.")
        .def_readonly("pass1_ms", &timings::pass1_ms)
        .def_readonly("encode_ms", &timings::encode_ms)
        .def_readonly("pass2_ms", &timings::pass2_ms)
        .def_readonly("decode_ms", &timings::decode_ms)
        .def_property_readonly("pass2", [](const timings & self) { return pass2_kind_name(self.pass2); })
        .def_readonly("hidden_bytes", &timings::hidden_bytes)
        .def_readonly("n_prompt", &timings::n_prompt)
        .def_readonly("n_reused", &timings::n_reused)
        .def_readonly("n_generated", &timings::n_generated)
        .def_readonly("n_refreshed", &timings::n_refreshed);

    py::class_<generation, std::shared_ptr<generation>>(m, "Answer", "An answer, as far as it has come.")
        .def_property_readonly(
            "finish_reason", [](const generation & self) { return finish_reason_name(self.finish()); })
        .def_property_readonly("text", [](const generation & self) { return to_str(self.text()); })
        .def_property_readonly("tokens", &generation::tokens)
        .def_property_readonly("doubt", &generation::doubt)
        .def_property_readonly("abstained", &generation::abstained)
        .def_property_readonly("p_wrong", &generation::p_wrong)
        .def_property_readonly("too_doubtful", &generation::too_doubtful)
        .def_property_readonly(
            "withheld",
            [](const generation & self) -> py::object {
                const std::string * text = self.withheld_text();
                return text ? py::object(to_str(*text)) : py::none();
            })
        .def_property_readonly(
            "verdicts",
            [](const generation & self) -> py::object {
                const answer_features * features = self.features();
                if (!features || !features->is_judged()) {
                    return py::none();
                }
                const std::string & text = self.withheld_text() ? *self.withheld_text() : self.text();
                const auto n_characters = [&](size_t n_bytes) { return py::len(to_str(text.substr(0, n_bytes))); };
                py::list list;
                for (const sentence_features & sentence : features->sentences()) {
                    list.append(
                        py::make_tuple(n_characters(sentence.begin), n_characters(sentence.end), sentence.p_wrong));
                }
                return list;
            },
            "(first character, end, probability of an error or None) of each sentence; None without a verdict head.")
        .def(
            "features",
            [](const generation & self, int64_t n_embd) -> py::object {
                const answer_features * features = self.features();
                if (!features || features->is_judged()) {
                    return py::none();
                }
                const std::vector<float> & prompt = features->prompt_rows();
                const py::array rows =
                    to_numpy(prompt, {(py::ssize_t)((int64_t)prompt.size() / n_embd), (py::ssize_t)n_embd});
                return py::make_tuple(rows, sentences_of(*features, n_embd));
            },
            py::arg("n_embd"),
            "What a verdict reads, if tap_answers chose the layers: (rows of the prompt's last token, [(first token, "
            "number\n"
            "of tokens, first byte, end byte, mean rows, rows of the last token, figures)] of each sentence, and of "
            "the\n"
            "answer as the last one).")
        .def_property_readonly("timings", &generation::times);

    py::class_<py_scheduler>(m, "Scheduler", "Several answers that grow at once, each in a sequence of its own.")
        .def(py::init<py::object>(), py::arg("engine"))
        .def("add", &py_scheduler::add, py::arg("prompt"), py::arg("params"), "Returns an id, from 0 on.")
        .def("cancel", &py_scheduler::cancel, py::arg("id"), "Nothing more comes of this one.")
        .def_property_readonly("n_free", &py_scheduler::n_free, "Sequences that nobody runs in or waits for.")
        .def(
            "step", &py_scheduler::step, py::arg("cancel") = py::none(),
            "One batch of prompts and one of answers: [(id, text, token ids, [(token, bytes, logprob, [(token, bytes,\n"
            "name, logprob)])], more to come, answer, or the error that ended it)].");
}

} // namespace metadeploy
