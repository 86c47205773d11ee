/* SPDX-License-Identifier: GPL-2.0-or-later */
#ifndef BASE_LOCK_H
#define BASE_LOCK_H

#include <pthread.h>

/**
 * lock_init() - a mutex that the loop and other threads share
 *
 * Its holder inherits the priority of whoever waits for it: a thread with a low priority that is
 * preempted in its few lines would hold up the loop, and a guest with it, for a time slice or more.
 */
static inline void lock_init(pthread_mutex_t *lock)
{
	pthread_mutexattr_t attr;

	pthread_mutexattr_init(&attr);
	pthread_mutexattr_setprotocol(&attr, PTHREAD_PRIO_INHERIT);
	pthread_mutex_init(lock, &attr);
	pthread_mutexattr_destroy(&attr);
}

#endif
