/* SPDX-License-Identifier: GPL-2.0-or-later */
#ifndef BASE_LIMITED_H
#define BASE_LIMITED_H

#include "loop.h"

/**
 * enum limited_kind - messages that a stranger, a peer, a VMM or a client can provoke
 *
 * Each kind has a limit of its own, so that a flood of one hides none of another.
 */
enum limited_kind {
	LIMITED_REFUSED,    /* connections to the peers' address */
	LIMITED_INCOMING,   /* migrations that did not arrive */
	LIMITED_MISPLACED,  /* messages of a peer that its state does not have */
	LIMITED_VMM,	    /* connections to the VMMs' socket */
	LIMITED_REGISTERED, /* VMMs that come and go */
	LIMITED_GUEST,	    /* what is done about the guest of a VMM that has registered */
	LIMITED_LOST,	    /* of these: it may run twice, or is lost */
	LIMITED_CLIENT,	    /* clients of the control socket */
	LIMITED_NR
};

struct limited;

int limited_open(struct loop *loop, struct limited **out);
void limited_flush(struct limited *l);
void limited_close(struct limited *l);
void limited_error(struct limited *l, enum limited_kind kind, const char *fmt, ...)
	__attribute__((format(printf, 3, 4)));
void limited_notice(struct limited *l, enum limited_kind kind, const char *fmt, ...)
	__attribute__((format(printf, 3, 4)));

#endif
