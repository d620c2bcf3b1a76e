// Several answers that grow at once, each in a sequence of its own: what is evaluated together, and when.
//
// A step is a micro-batch of prompt tokens, and a batch with a token for each answer. So a long prompt holds the
// answers up by a micro-batch at a time. Prompts share no batch, for that would cut them into other pieces than one
// that is alone: first tokens, and doubt, do not depend on what else is answered.
#pragma once

#include "generation/generation.h"

#include <cstddef>
#include <deque>
#include <exception>
#include <memory>
#include <vector>

namespace metadeploy {

class scheduler {
public:
    // What one step has made of a request.
    struct event {
        size_t id;
        chunk out;
        bool more = true;                         // false: this is its last event
        std::shared_ptr<const generation> answer; // none where it has failed before its prompt began
        std::exception_ptr fault;                 // an error of its own, which leaves the others
    };

    // The engine must not be used otherwise as long as this is.
    explicit scheduler(engine & eng) : eng(eng), slots(eng.sequences().size()) {}

    // Returns an id: requests are numbered from 0 on. Those beyond the context's sequences wait for one, or for two
    // where they are refreshed.
    size_t add(std::vector<llama_token> prompt, generation_params params);
    void cancel(size_t id); // no more events of it; nothing where it is over

    size_t n_free() const; // sequences that nobody runs in or waits for

    // At most one event for each request. An error that is not one request's own is thrown, and ends them all.
    std::vector<event> step();

private:
    struct request {
        size_t id;
        std::vector<llama_token> prompt;
        generation_params params;
        size_t n_sequences;
    };

    struct slot {
        size_t id = 0;
        std::shared_ptr<generation> answer; // none: free, or lent
        slot * clean = nullptr;             // whose sequence is lent to this one
        bool lent = false;
        bool served = false; // it has an event in this step

        bool is_free() const { return !answer && !lent; }
    };

    size_t n_idle() const; // free slots
    slot & best_slot(const std::vector<llama_token> & prompt);
    slot & another_slot(const slot & than);
    void admit();
    void begin(request item);
    slot * resuming() const;
    void evaluate_prompts();
    void evaluate_answers();
    bool look(const std::vector<slot *> & chosen);
    void evaluate(const std::vector<slot *> & chosen, const std::vector<batch_part> & parts);
    template <typename F>
    void alone(slot & of, F && f);
    void sample(slot & of);
    void release(slot & of);
    void close(slot & of, event last);

    engine & eng;
    std::vector<slot> slots; // by sequence id
    std::deque<request> waiting;
    std::deque<slot *> prompts; // those on their way, the one that waits longest first
    std::vector<event> events;
    size_t next_id = 0;
};

} // namespace metadeploy
