/* SPDX-License-Identifier: GPL-2.0-or-later */
#ifndef SIM_DISK_H
#define SIM_DISK_H

#include <stdbool.h>

struct disk;

struct disk *disk_new(void);
void disk_lose_power(struct disk *d);

#endif
