/* SPDX-License-Identifier: GPL-2.0-or-later */
#ifndef SIM_JUDGE_H
#define SIM_JUDGE_H

#include <stdbool.h>
#include <stdint.h>

struct vmm;

#define JUDGE_KIND_LEN 24
#define JUDGE_TEXT_LEN 400

/** struct verdict - @kind: "" as long as nothing is wrong */
struct verdict {
	char kind[JUDGE_KIND_LEN], text[JUDGE_TEXT_LEN];
};

extern struct verdict judge_verdict;

void judge_begin(void);
void judge_ignore_guests(void);
void judge_fail(const char *kind, const char *fmt, ...) __attribute__((format(printf, 2, 3)));
void judge_starts(struct vmm *v, const char *by);
bool judge_name_is_taken(const struct vmm *v);
void judge_rest(void);

#endif
