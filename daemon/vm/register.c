// SPDX-License-Identifier: GPL-2.0-or-later
/* What a VMM may register: reads REGISTER, and judges all that can be judged without its files. */
#include "register.h"

#include <stdbool.h>
#include <stdio.h>
#include <string.h>

/*
 * A name stands in lines of the journal and of the log, and in JSON: a line's end in it would forge another VM's
 * entry. The journal's reader skips leading blanks.
 */
static bool is_name(const char *text)
{
	const unsigned char *c = (const unsigned char *)text;

	if (!memchr(text, '\0', VMFERRY_VMM_NAME_LEN) || *c <= ' ')
		return false;
	while (*c >= ' ' && *c < 0x7f)
		c++;
	return !*c;
}

static const char *judge(const struct register_request *r, unsigned int nr_fds)
{
	const struct vmferry_msg_register *reg = &r->reg;

	if (!is_name(reg->name) || !memchr(reg->untracked, '\0', VMFERRY_VMM_NAME_LEN))
		return "bad name in registration";
	if (nr_fds != reg->nr_regions + 1 + !!(reg->flags & VMFERRY_REGISTER_VM_FD))
		return "registration without the right number of fds";
	if (reg->run_state < VMFERRY_RUN_RUNNING || reg->run_state > VMFERRY_RUN_RELEASED)
		return "bad run state in registration";
	if (r->last.role > VMFERRY_ROLE_DESTINATION)
		return "bad role of the last migration in registration";
	return NULL;
}

/**
 * register_read() - copy and judge the body of a REGISTER, of @len bytes
 * @version: of the VMM protocol
 * @nr_fds: that came with it
 * @text: room for a reason
 * Return: NULL, or the reason why it is refused, in @text or elsewhere
 */
const char *register_read(struct register_request *to, unsigned int version, const uint8_t *body, size_t len,
			  unsigned int nr_fds, char *text, size_t text_len)
{
	struct vmferry_msg_register *reg = &to->reg;
	size_t regions_len, devices_len, last_len = version >= 2 ? sizeof(to->last) : 0;

	(void)text;
	(void)text_len;
	*to = (struct register_request){ .version = version };
	if (len < sizeof(*reg))
		return "bad registration";
	memcpy(reg, body, sizeof(*reg));
	if (!reg->nr_regions || reg->nr_regions > VMFERRY_MAX_REGIONS || !reg->nr_vcpus ||
	    reg->nr_devices > VMFERRY_VMM_MAX_DEVICES)
		return "bad number of regions, vCPUs or devices in registration";
	regions_len = reg->nr_regions * sizeof(to->regions[0]);
	devices_len = reg->nr_devices * sizeof(to->devices[0]);
	if (len != sizeof(*reg) + regions_len + devices_len + last_len)
		return "bad number of regions, vCPUs or devices in registration";
	body += sizeof(*reg);
	memcpy(to->regions, body, regions_len);
	memcpy(to->devices, body + regions_len, devices_len);
	memcpy(&to->last, body + regions_len + devices_len, last_len);
	return judge(to, nr_fds);
}
