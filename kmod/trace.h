/* SPDX-License-Identifier: GPL-2.0-only */
#undef TRACE_SYSTEM
#define TRACE_SYSTEM vmferry

#if !defined(VMFERRY_TRACE_H) || defined(TRACE_HEADER_MULTI_READ)
#define VMFERRY_TRACE_H

#include <linux/tracepoint.h>

TRACE_EVENT(vmferry_attach,
	TP_PROTO(unsigned int id, int pid, unsigned int slots),
	TP_ARGS(id, pid, slots),
	TP_STRUCT__entry(
		__field(unsigned int, id)
		__field(int, pid)
		__field(unsigned int, slots)
	),
	TP_fast_assign(
		__entry->id = id;
		__entry->pid = pid;
		__entry->slots = slots;
	),
	TP_printk("attachment %u pid %d slots %u", __entry->id, __entry->pid, __entry->slots)
);

DECLARE_EVENT_CLASS(vmferry_count,
	TP_PROTO(unsigned int id, u32 nr),
	TP_ARGS(id, nr),
	TP_STRUCT__entry(
		__field(unsigned int, id)
		__field(u32, nr)
	),
	TP_fast_assign(
		__entry->id = id;
		__entry->nr = nr;
	),
	TP_printk("attachment %u entries %u", __entry->id, __entry->nr)
);

/* Entries copied out of the rings; their pages are still writable. */
DEFINE_EVENT(vmferry_count, vmferry_harvest,
	TP_PROTO(unsigned int id, u32 nr),
	TP_ARGS(id, nr)
);

/* Entries that KVM took back; their pages are write-protected. */
DEFINE_EVENT(vmferry_count, vmferry_reset,
	TP_PROTO(unsigned int id, u32 nr),
	TP_ARGS(id, nr)
);

/* Pages that the consumer can newly see. */
DEFINE_EVENT(vmferry_count, vmferry_publish,
	TP_PROTO(unsigned int id, u32 nr),
	TP_ARGS(id, nr)
);

#endif

#undef TRACE_INCLUDE_PATH
#define TRACE_INCLUDE_PATH .
#undef TRACE_INCLUDE_FILE
#define TRACE_INCLUDE_FILE trace
#include <trace/define_trace.h>
