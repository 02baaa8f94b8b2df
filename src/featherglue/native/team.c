/* Threads that share the work of one call. They are started when first needed, and sleep between
 * calls. */
#if !defined(_WIN32)
#include "team.h"

#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stddef.h>

#define MOST_WORKERS 63
#define SPINS 4000 /* of a thread that waits for a layer, before it lets other programs run */

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static pthread_cond_t wake = PTHREAD_COND_INITIALIZER;
static pthread_once_t once = PTHREAD_ONCE_INIT;
static Team *teams; /* that want more threads or did */
static int64_t num_workers, num_idle;

static inline void pause_briefly(int64_t tries) {
#if defined(__x86_64__)
    __builtin_ia32_pause();
#endif
    if (tries > SPINS) sched_yield();
}

/* Begin a layer, or the next one that has units. */
static void begin_layer(Team *team, uint64_t layer) {
    int64_t units = 0;
    for (; layer < (uint64_t)team->num_layers; layer++)
        if ((units = team->begin(team->context, (int64_t)layer)) > 0) break;
    atomic_store(&team->unfinished, units);
    atomic_store(&team->state, layer << 32 | (uint64_t)units);
}

static void work(Team *team, int64_t thread) {
    for (int64_t tries = 0;;) {
        unsigned long long state = atomic_load(&team->state);
        int64_t layer = (int64_t)(state >> 32), left = (int64_t)(state & 0xffffffff);
        if (layer >= team->num_layers) return;
        if (left == 0) {
            pause_briefly(tries++);
        } else if (atomic_compare_exchange_weak(&team->state, &state, state - 1)) {
            team->run(team->context, layer, left - 1, thread);
            tries = 0;
            if (atomic_fetch_sub(&team->unfinished, 1) == 1) begin_layer(team, (uint64_t)layer + 1);
        }
    }
}

static Team *wanting_team(void) {
    Team *team = teams;
    while (team && team->wanted == 0) team = team->next;
    return team;
}

static void *live(void *unused) {
    pthread_mutex_lock(&lock);
    for (;;) {
        Team *team;
        while ((team = wanting_team()) == NULL) pthread_cond_wait(&wake, &lock);
        num_idle--;
        int64_t thread = ++team->joined;
        team->wanted--;
        atomic_fetch_add(&team->inside, 1);
        pthread_mutex_unlock(&lock);
        work(team, thread);
        pthread_mutex_lock(&lock);
        num_idle++; /* before the caller returns: its next team needs no more threads */
        atomic_fetch_sub(&team->inside, 1); /* the team may be gone from here on */
    }
    return unused;
}

/* Start threads, which count as idle at once, until `count` are; fewer if the system allows no more. */
static void start_workers(int64_t count) {
    sigset_t every, before; /* signals are for the threads of the program */
    sigfillset(&every);
    pthread_sigmask(SIG_SETMASK, &every, &before);
    for (; num_idle < count && num_workers < MOST_WORKERS; num_idle++, num_workers++) {
        pthread_t thread;
        if (pthread_create(&thread, NULL, live, NULL)) break;
        pthread_detach(thread);
    }
    pthread_sigmask(SIG_SETMASK, &before, NULL);
}

static void before_fork(void) { pthread_mutex_lock(&lock); }
static void after_fork(void) { pthread_mutex_unlock(&lock); }

static void in_child(void) { /* which has none of the threads */
    pthread_mutex_init(&lock, NULL);
    pthread_cond_init(&wake, NULL);
    teams = NULL;
    num_workers = num_idle = 0;
}

static void prepare(void) { pthread_atfork(before_fork, after_fork, in_child); }

void run_team(Team *team) {
    atomic_store(&team->inside, 0);
    team->joined = 0;
    team->wanted = team->num_threads - 1;
    begin_layer(team, 0);
    if (team->wanted > 0) {
        pthread_once(&once, prepare);
        pthread_mutex_lock(&lock);
        team->next = teams;
        teams = team;
        int64_t wanted = 0;
        for (Team *each = teams; each; each = each->next) wanted += each->wanted;
        start_workers(wanted);
        for (int64_t i = 0; i < team->wanted; i++) pthread_cond_signal(&wake);
        pthread_mutex_unlock(&lock);
    }
    work(team, 0);
    if (team->num_threads > 1) {
        pthread_mutex_lock(&lock);
        Team **place = &teams;
        while (*place != team) place = &(*place)->next;
        *place = team->next;
        pthread_mutex_unlock(&lock);
        for (int64_t i = 0; atomic_load(&team->inside); i++) pause_briefly(i);
    }
}
#endif
