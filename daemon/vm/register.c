// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * What a VMM may register: reads REGISTER, and judges all that can be judged without its files; vm_map() judges these.
 *
 * Names stand in lines of the log and of the journal, and in JSON, so that they are names everywhere or refused.
 * Two regions with a byte in common would have two dirty bits for it.
 */
#include "register.h"

#include <stdarg.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>

#include "base/text.h"
#include "pages/region.h"

#define NAME_WORDS "is not 1 to %d printable ASCII characters without blanks"

/** struct verdict - @why: NULL, or the first reason against the registration, which is @text */
struct verdict {
	const char *why;
	char *text;
	size_t len;
};

static void __attribute__((format(printf, 2, 3))) refuse(struct verdict *v, const char *fmt, ...)
{
	va_list ap;

	if (v->why)
		return;
	va_start(ap, fmt);
	vsnprintf(v->text, v->len, fmt, ap);
	va_end(ap);
	v->why = v->text;
}

static bool is_name_or_empty(const char *text, size_t room)
{
	return !text[0] || text_is_name(text, room);
}

static void judge_region(struct verdict *v, unsigned int i, const struct vmferry_msg_region *r)
{
	uint64_t end;

	if (!text_is_name(r->name, sizeof(r->name)))
		refuse(v, "the name of region %u " NAME_WORDS, i, VMFERRY_VMM_NAME_LEN - 1);
	if (!r->size || r->size % REGION_PAGE || r->gpa % REGION_PAGE || r->fd_off % REGION_PAGE)
		refuse(v, "region %u: size and addresses must be multiples of 4 KiB, the size not 0", i);
	if (r->page_size < REGION_PAGE || r->page_size & (r->page_size - 1))
		refuse(v, "region %u: pages of %u bytes; a power of two from 4096 on is possible", i, r->page_size);
	else if (r->size % r->page_size || r->fd_off % r->page_size)
		refuse(v, "region %u: its size and place in the memfd must be multiples of its pages' %u bytes", i, r->page_size);
	if (__builtin_add_overflow(r->gpa, r->size, &end) || __builtin_add_overflow(r->fd_off, r->size, &end))
		refuse(v, "region %u: its end is beyond 2^64", i);
}

static void judge_regions(struct verdict *v, const struct register_request *r)
{
	for (unsigned int i = 0; i < r->reg.nr_regions; i++) {
		const struct vmferry_msg_region *one = &r->regions[i];

		judge_region(v, i, one);
		for (unsigned int k = 0; k < i; k++) {
			const struct vmferry_msg_region *other = &r->regions[k];

			if (one->gpa < other->gpa + other->size && other->gpa < one->gpa + one->size)
				refuse(v, "regions %u and %u overlap in the guest's memory", k, i);
		}
	}
}

static void judge_devices(struct verdict *v, const struct register_request *r)
{
	for (unsigned int i = 0; i < r->reg.nr_devices; i++) {
		const struct vmferry_msg_device *d = &r->devices[i];

		if (!text_is_name(d->name, sizeof(d->name)))
			refuse(v, "the name of device %u " NAME_WORDS, i, (int)sizeof(d->name) - 1);
		if (!is_name_or_empty(d->kind, sizeof(d->kind)))
			refuse(v, "the kind of device %u " NAME_WORDS, i, (int)sizeof(d->kind) - 1);
	}
}

static void judge_counts(struct verdict *v, const struct vmferry_msg_register *reg)
{
	if (!reg->nr_regions || reg->nr_regions > VMFERRY_MAX_REGIONS)
		refuse(v, "%u regions; 1 to %d are possible", reg->nr_regions, VMFERRY_MAX_REGIONS);
	if (!reg->nr_vcpus || reg->nr_vcpus > VMFERRY_MAX_VCPUS)
		refuse(v, "%u vCPUs; 1 to %d are possible", reg->nr_vcpus, VMFERRY_MAX_VCPUS);
	if (reg->nr_devices > VMFERRY_VMM_MAX_DEVICES)
		refuse(v, "%u devices; up to %d are possible", reg->nr_devices, VMFERRY_VMM_MAX_DEVICES);
}

static void judge(struct verdict *v, const struct register_request *r, unsigned int nr_fds)
{
	static const uint8_t none[16];
	const struct vmferry_msg_register *reg = &r->reg;
	unsigned int wanted = reg->nr_regions + 1 + !!(reg->flags & VMFERRY_REGISTER_VM_FD);

	if (!text_is_name(reg->name, sizeof(reg->name)))
		refuse(v, "its name " NAME_WORDS, VMFERRY_VMM_NAME_LEN - 1);
	if (!is_name_or_empty(reg->untracked, sizeof(reg->untracked)))
		refuse(v, "the name of its untracked device " NAME_WORDS, VMFERRY_VMM_NAME_LEN - 1);
	if (nr_fds != wanted)
		refuse(v, "%u files came with the registration; %u belong to it", nr_fds, wanted);
	if (reg->run_state < VMFERRY_RUN_RUNNING || reg->run_state > VMFERRY_RUN_RELEASED)
		refuse(v, "run state %u is none", reg->run_state);
	if (r->last.role > VMFERRY_ROLE_DESTINATION || (!r->last.role && memcmp(r->last.id, none, sizeof(none))))
		refuse(v, "its last migration has role %u, which is none", r->last.role);
	judge_regions(v, r);
	judge_devices(v, r);
}

/**
 * register_read() - copy and judge the body of a REGISTER, of @len bytes
 * @version: of the VMM protocol
 * @nr_fds: that came with it
 * @text: room for a reason
 * Return: NULL, or @text with the reason why it is refused.
 */
const char *register_read(struct register_request *to, unsigned int version, const uint8_t *body, size_t len,
			  unsigned int nr_fds, char *text, size_t text_len)
{
	struct vmferry_msg_register *reg = &to->reg;
	size_t regions_len, devices_len, last_len = version >= 2 ? sizeof(to->last) : 0;
	struct verdict v = { .text = text, .len = text_len };

	*to = (struct register_request){ .version = version };
	if (len < sizeof(*reg)) {
		refuse(&v, "a registration of %zu bytes is none", len);
		return v.why;
	}
	memcpy(reg, body, sizeof(*reg));
	judge_counts(&v, reg);
	if (v.why)
		return v.why;
	regions_len = reg->nr_regions * sizeof(to->regions[0]);
	devices_len = reg->nr_devices * sizeof(to->devices[0]);
	if (len != sizeof(*reg) + regions_len + devices_len + last_len) {
		refuse(&v, "a registration with %u regions and %u devices has %zu bytes in version %u, not %zu", reg->nr_regions,
		       reg->nr_devices, sizeof(*reg) + regions_len + devices_len + last_len, version, len);
		return v.why;
	}
	body += sizeof(*reg);
	memcpy(to->regions, body, regions_len);
	memcpy(to->devices, body + regions_len, devices_len);
	memcpy(&to->last, body + regions_len + devices_len, last_len);
	judge(&v, to, nr_fds);
	return v.why;
}
