/* SPDX-License-Identifier: GPL-2.0-or-later */
#ifndef BASE_URGENT_H
#define BASE_URGENT_H

void urgent_begin(void);
void urgent_end(void);

#endif
