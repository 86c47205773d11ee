/* SPDX-License-Identifier: GPL-2.0-or-later */
#ifndef VM_REGISTER_H
#define VM_REGISTER_H

#include <stddef.h>
#include <stdint.h>
#include <vmferry.h>
#include <vmferry_vmm.h>

/**
 * struct register_request - a copy of all that a REGISTER says
 * @version: of the VMM protocol, in which it is said; 1: @last is zeros
 */
struct register_request {
	unsigned int version;
	struct vmferry_msg_register reg;
	struct vmferry_msg_region regions[VMFERRY_MAX_REGIONS];
	struct vmferry_msg_device devices[VMFERRY_VMM_MAX_DEVICES];
	struct vmferry_msg_migration last;
};

const char *register_read(struct register_request *to, unsigned int version, const uint8_t *body, size_t len,
			  unsigned int nr_fds, char *text, size_t text_len);

#endif
