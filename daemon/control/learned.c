// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * What predictors have learned, kept over restarts: one file for each pair of hosts and
 * shape of VM, one for each kind of device.
 *
 *   pair-host2_2-vcpus_256-MiB_ring.json   { "stop": [[size, ns], ...], "harvest": ... }
 *   device-nic.json                        { "save": [[size, ns], ...], "load": [...] }
 *
 * "total" is in thousandths of what was expected, times 1000. A file that cannot be read
 * is as good as none: predictions are only careful again.
 */
#include "learned.h"

#include <ctype.h>
#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <time.h>

#include "base/error.h"

/* @what and @name as a file's path; whatever is no letter, digit or point is a dash. */
static void path_of(const char *dir, const char *what, const char *name, char *to, size_t len)
{
	int n = snprintf(to, len, "%s/%s-", dir, what);

	for (; *name && (size_t)n + 6 < len; name++)
		to[n++] = isalnum((unsigned char)*name) || *name == '.' ? *name : '-';
	snprintf(to + n, len - (size_t)n, ".json");
}

static json_t *load(const char *path)
{
	json_error_t e;
	json_t *j = json_load_file(path, 0, &e);

	if (!j && json_error_code(&e) != json_error_cannot_open_file)
		notice_report("learned figures %s: %s; predictions begin anew", path, e.text);
	return j;
}

static void read_estimate(json_t *from, struct estimate *to)
{
	size_t i;
	json_t *s;

	json_array_foreach (from, i, s) {
		json_int_t size = json_integer_value(json_array_get(s, 0));
		json_int_t ns = json_integer_value(json_array_get(s, 1));

		if (size >= 0 && ns >= 0 && ns < 1000000000000LL)
			estimate_learn(to, (uint64_t)size, (uint64_t)ns);
	}
}

/* Oldest first, as they are to be learned again. */
static json_t *estimate_json(const struct estimate *e)
{
	json_t *list = json_array();

	for (uint32_t i = 0; i < e->nr; i++) {
		uint32_t k = (e->at + ESTIMATE_SAMPLES - e->nr + i) % ESTIMATE_SAMPLES;

		json_array_append_new(list, json_pack("[I, I]", (json_int_t)e->size[k], (json_int_t)e->ns[k]));
	}
	return list;
}

static uint64_t age_of(const char *path)
{
	struct stat st;
	time_t now = time(NULL);

	return !stat(path, &st) && now > st.st_mtime ? (uint64_t)(now - st.st_mtime) : 0;
}

/**
 * learned_read() - what is known of @pair and of @to's devices, which must be there already
 * Return: how old that is, seconds; 0 if nothing is known
 */
uint64_t learned_read(const char *dir, const char *pair, struct predictor *to)
{
	char path[512];
	uint64_t age;
	json_t *j;

	path_of(dir, "pair", pair, path, sizeof(path));
	age = age_of(path);
	j = load(path);
	for (int i = 0; i < PART_NR; i++)
		read_estimate(json_object_get(j, predictor_part_name((enum predictor_part)i)), &to->part[i]);
	read_estimate(json_object_get(j, "resume"), &to->resume);
	read_estimate(json_object_get(j, "total"), &to->total);
	json_decref(j);
	for (unsigned int i = 0; i < to->nr_devices; i++) {
		path_of(dir, "device", to->device[i].kind, path, sizeof(path));
		j = load(path);
		read_estimate(json_object_get(j, "save"), &to->device[i].save);
		read_estimate(json_object_get(j, "load"), &to->device[i].load);
		json_decref(j);
	}
	return age;
}

static void save(struct scribe *s, const char *path, json_t *j)
{
	scribe_replace(s, path, json_dumps(j, JSON_COMPACT | JSON_PRESERVE_ORDER));
	json_decref(j);
}

/** learned_write() - in the background */
void learned_write(struct scribe *s, const char *dir, const char *pair, const struct predictor *from)
{
	json_t *j = json_object();
	char path[512];

	for (int i = 0; i < PART_NR; i++)
		json_object_set_new(j, predictor_part_name((enum predictor_part)i), estimate_json(&from->part[i]));
	json_object_set_new(j, "resume", estimate_json(&from->resume));
	json_object_set_new(j, "total", estimate_json(&from->total));
	path_of(dir, "pair", pair, path, sizeof(path));
	save(s, path, j);
	for (unsigned int i = 0; i < from->nr_devices; i++) {
		path_of(dir, "device", from->device[i].kind, path, sizeof(path));
		save(s, path, json_pack("{s:o, s:o}", "save", estimate_json(&from->device[i].save), "load",
					estimate_json(&from->device[i].load)));
	}
}
