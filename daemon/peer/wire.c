// SPDX-License-Identifier: GPL-2.0-or-later
/* Versions of the wire: which one two daemons speak, and what each is good for. */
#include "wire.h"

#include <stdio.h>

/** wire_common() - the newest version in the range @oldest to @newest and in ours; @newest 0: as @oldest. 0: none is */
uint32_t wire_common(uint32_t oldest, uint32_t newest)
{
	uint32_t high = newest ? newest : oldest;

	if (high > WIRE_VERSION)
		high = WIRE_VERSION;
	return high >= oldest && high >= WIRE_OLDEST ? high : 0;
}

/** wire_oldest_for() - the oldest version in which a connection of @role does what it is for */
uint32_t wire_oldest_for(uint32_t role)
{
	return role == WIRE_RESOLVE ? WIRE_OLDEST : WIRE_OLDEST_TO_MOVE;
}

/** wire_hello_for() - a hello of @role with our versions; its other fields are zero */
struct wire_hello wire_hello_for(enum wire_role role)
{
	return (struct wire_hello){ .magic = WIRE_MAGIC, .version = WIRE_OLDEST, .role = role, .newest = WIRE_VERSION };
}

/** wire_is_older() - a peer that speaks @oldest to @newest is too old for @role; false: it is new enough, or too new */
bool wire_is_older(uint32_t role, uint32_t oldest, uint32_t newest)
{
	return (newest ? newest : oldest) < wire_oldest_for(role);
}

/** wire_version_words() - "version 2" or "versions 2 to 3"; Return: @text */
const char *wire_version_words(uint32_t oldest, uint32_t newest, char text[40])
{
	if (newest > oldest)
		snprintf(text, 40, "versions %u to %u", oldest, newest);
	else
		snprintf(text, 40, "version %u", oldest);
	return text;
}
