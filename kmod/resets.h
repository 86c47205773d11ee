/* SPDX-License-Identifier: GPL-2.0-only */
#ifndef VMFERRY_RESETS_H
#define VMFERRY_RESETS_H

#include <linux/types.h>

struct kvm;

bool resets_list(void (*cut)(const struct kvm *kvm));
void resets_forget(void);
bool resets_were_missed(void);
u64 resets_last(void);
bool resets_run(const struct kvm *kvm, u64 nr);
void resets_wait(const struct kvm *kvm);

#endif
