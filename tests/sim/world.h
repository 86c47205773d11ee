/* SPDX-License-Identifier: GPL-2.0-or-later */
#ifndef SIM_WORLD_H
#define SIM_WORLD_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define US 1000ULL
#define MS 1000000ULL
#define S 1000000000ULL

typedef void (*world_fn)(void *arg);

void world_begin(uint64_t seed);
uint64_t world_now(void);
uint64_t world_tick(void);
void world_at(uint64_t at_ns, world_fn fn, void *arg);
void world_after(uint64_t delay_ns, world_fn fn, void *arg);
void world_run_until(uint64_t at_ns);
void world_end(void);
bool world_is_over(void);
uint64_t world_nr_events(void);

void *world_alloc(size_t len);

uint64_t world_random(void);
uint64_t world_below(uint64_t n);
bool world_chance(unsigned int in, unsigned int of);
uint64_t world_between(uint64_t from, uint64_t to);
uint64_t world_delay(uint64_t usual_ns);

/* A stream of random numbers apart from the world's, which depends on nothing but its seed. */
uint64_t splitmix64(uint64_t *state);

extern bool world_is_traced;
void world_trace(const char *fmt, ...) __attribute__((format(printf, 1, 2)));

#endif
