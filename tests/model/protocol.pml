/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The switchover's protocol: both daemons, both VMMs, both journals, the control connection, the channels, and
 * the connections that ask afterwards. Each model of this folder includes it and says what may go wrong there.
 *
 * Theory of operation
 *
 *   Source is migration.c, switchover.c, closing.c, recovery.c, held.c and settle.c;
 *   Destination is incoming.c, arrival.c, recovery.c and outcome.c;
 *   the two Vmms are libvmferry's session.c; Fate decides what breaks; Judge is the operator at the end.
 *   Names at the right say which function is meant.
 *
 * What may happen, at any moment and in any order. Each line is off unless a model defines its number:
 *
 *   TRIES        tries before the source gives up
 *   CANCELS      times that the operator cancels
 *   REFUSALS     times that a journal refuses "begun" or "go"
 *   BREAKS       times that the control connection breaks; the tail of what is in it is lost, either way
 *   RESETS       times that the destination loses a channel, and the control connection stays
 *   SRC_CRASHES  times that the source's daemon dies, between any two actions, and starts again
 *   DST_CRASHES  the same at the destination
 *   WIPES        how many of those deaths also lose the marks file: what no disk holds is forgotten
 *   POWER        how many of the destination's deaths are a loss of power: its VMM dies, too
 *   SRC_CUTS     times that the source's VMM loses its socket, answers lost, or refuses a request
 *   DST_CUTS     the same of the destination's VMM
 *   VMM_DIES     either VMM may die, with its guest
 *   SETTLES      the source tells the outcome, and the two entries are dropped
 *   QUESTIONS    questions that a stranger asks who knows the migration's id
 *   FORGETS      times that the operator drops a closed entry of the destination: "vmferry forget"
 *   ONE_DAEMON   both sides are one daemon with one journal: both die together
 *   NAMESAKES    another VM of the guest's name, which runs, registers with the destination's daemon
 *
 * What is proved:
 *   never two     no VMM begins to run its guest once the other has run it, and the destination's never
 *                 while the source's runs                                                        (assert)
 *   never none    when nothing moves any more the guest runs; or it was lost with its VMM; or it is held,
 *                 the operator's verb is taken, and what is true makes it run                     (Judge)
 *   no idle hold  the operator is needed only if marks, the destination's journal or its VMM were lost   (Judge)
 *   no leftover   a VMM that is stopped for good is released, or held for the operator             (Judge)
 *   whole         what begins to run there is what was stopped last                              (assert)
 *   no deadlock, and no pair of state and event that the code calls a bug                        (assert)
 *
 * A turn of a daemon's loop is atomic but for its death: what it does is seen by others through messages only.
 *
 * Left out: pages and their rounds, harvests, time-outs that only end a wait for a peer that hangs (the guest may
 * not depend on them), and an operator who is wrong.
 */

#ifndef TRIES
#define TRIES 1
#endif
#ifndef CANCELS
#define CANCELS 0
#endif
#ifndef REFUSALS
#define REFUSALS 0
#endif
#ifndef BREAKS
#define BREAKS 0
#endif
#ifndef RESETS
#define RESETS 0
#endif
#ifndef SRC_CRASHES
#define SRC_CRASHES 0
#endif
#ifndef DST_CRASHES
#define DST_CRASHES 0
#endif
#ifndef WIPES
#define WIPES 0
#endif
#ifndef POWER
#define POWER 0
#endif
#ifndef SRC_CUTS
#define SRC_CUTS 0
#endif
#ifndef DST_CUTS
#define DST_CUTS 0
#endif
#ifndef QUESTIONS
#define QUESTIONS 0
#endif
#ifndef FORGETS
#define FORGETS 0
#endif
#ifndef NAMESAKES
#define NAMESAKES 0
#endif

#include "arcs.pml"
#include "world.pml"
#include "source.pml"
#include "destination.pml"
#include "judge.pml"
