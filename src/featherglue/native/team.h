/* Threads that share the work of one call. */
#ifndef FEATHERGLUE_TEAM_H
#define FEATHERGLUE_TEAM_H

#include <stdatomic.h>
#include <stdint.h>

/* A call is a sequence of layers, and a layer is a number of units of work in any order. All units of
 * a layer are finished before the next layer begins. Threads join when they wake up, so that a call
 * never waits for one that has not begun. */
typedef struct Team Team;
struct Team {
    void *context;
    int64_t num_layers, num_threads;
    /* Called by one thread before a layer; returns its number of units. */
    int64_t (*begin)(void *context, int64_t layer);
    /* Thread numbers are below `num_threads`; two running units never have the same. */
    void (*run)(void *context, int64_t layer, int64_t unit, int64_t thread);
    /* Set by `run_team`. */
    atomic_ullong state; /* layer << 32 | units that nobody has taken */
    atomic_llong unfinished, inside;
    int64_t wanted, joined;
    Team *next;
};

/* Do the work of a team, in this thread and in up to `num_threads` - 1 others. */
void run_team(Team *team);

#endif
