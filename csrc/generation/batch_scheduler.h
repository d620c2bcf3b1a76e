// Schedules several answers, each in its own sequence: which tokens are evaluated together, and when.
//
// A step is a micro-batch of prompt tokens, then a batch with one token for each answer. So a long prompt delays the
// answers by one micro-batch at a time. Prompts do not share a batch, because llama.cpp would then cut them into other
// micro-batches than a prompt that is alone. So first tokens and doubt do not depend on the other requests.
#pragma once

#include "generation/generation.h"

#include <cstddef>
#include <deque>
#include <exception>
#include <memory>
#include <vector>

namespace metadeploy {

class batch_scheduler {
public:
    // what one step did for a request
    struct event {
        size_t id;
        chunk out;
        bool more = true;                         // false: this is its last event
        std::shared_ptr<const generation> answer; // null if it failed before its prompt began
        std::exception_ptr fault;                 // an error of this request alone
    };

    // Nothing else may use the engine as long as this object exists.
    explicit batch_scheduler(engine & eng) : eng(eng), slots(eng.sequences().size()) {}

    // Returns an id: requests are numbered from 0 on. A request waits for a free sequence, or for two if its cognitive
    // tokens are refreshed.
    size_t add(std::vector<llama_token> prompt, generation_params params);
    void cancel(size_t id); // no more events of it; does nothing if it is over

    size_t n_free() const; // sequences that are free and that no request waits for

    // Returns at most one event for each request. Throws an error that does not belong to one request alone; such an
    // error ends all requests.
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
        std::shared_ptr<generation> answer; // null: free or borrowed
        slot * clean = nullptr;             // the slot that this one has borrowed
        bool borrowed = false;
        bool has_event = false; // it has an event in this step

        bool is_free() const { return !answer && !borrowed; }
    };

    size_t n_idle() const; // free slots
    slot & pick_slot(const std::vector<llama_token> & prompt);
    slot & borrow_slot(const slot & borrower);
    void admit();
    void begin(request item);
    slot * starting_pass2() const;
    void evaluate_prompts();
    void evaluate_answers();
    bool evaluate_clean_contexts(const std::vector<slot *> & chosen);
    void evaluate(const std::vector<slot *> & chosen, const std::vector<batch_part> & parts);
    template <typename F>
    void run_for(slot & s, F && f);
    void sample(slot & s);
    void release(slot & s);
    void finish(slot & s, event last);

    engine & eng;
    std::vector<slot> slots; // by sequence id
    std::deque<request> waiting;
    std::deque<slot *> prompts; // prompts in progress, the one that waits longest first
    std::vector<event> events;
    size_t next_id = 0;
};

} // namespace metadeploy
