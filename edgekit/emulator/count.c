/* Counts the instructions that a guest executes, by class, under the user-mode emulator QEMU 7.2 (plugin interface 1).
 *
 * The guest marks a moment by close(0x5EED0000), which fails and does nothing; a line with all counts so far is written
 * for each. Counts grow once per executed block, so they are exact for one thread, and cost next to nothing. */
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include "instruction_class.h"

/* The few entry points of the emulator that are used here. */
#define EXPORT __attribute__((visibility("default")))
struct qemu_plugin_tb;
struct qemu_plugin_insn;
typedef uint64_t plugin_id;
typedef struct {
    const char *target_name;
    struct { int min, cur; } version;
} plugin_info;
typedef void (*block_callback)(plugin_id, struct qemu_plugin_tb *);
typedef void (*call_callback)(plugin_id, unsigned, int64_t, uint64_t, uint64_t, uint64_t, uint64_t, uint64_t, uint64_t,
                              uint64_t, uint64_t);
enum { ADD_U64 = 0 };
extern size_t qemu_plugin_tb_n_insns(const struct qemu_plugin_tb *);
extern struct qemu_plugin_insn *qemu_plugin_tb_get_insn(const struct qemu_plugin_tb *, size_t);
extern const void *qemu_plugin_insn_data(const struct qemu_plugin_insn *);
extern void qemu_plugin_register_vcpu_tb_trans_cb(plugin_id, block_callback);
extern void qemu_plugin_register_vcpu_tb_exec_inline(struct qemu_plugin_tb *, int, void *, uint64_t);
extern void qemu_plugin_register_vcpu_syscall_cb(plugin_id, call_callback);

EXPORT int qemu_plugin_version = 1;

static uint64_t total, by_class[CLASSES];
static bool is_a64;
static int64_t close_number;
static FILE *out;

static void translated(plugin_id id, struct qemu_plugin_tb *block) {
    size_t length = qemu_plugin_tb_n_insns(block);
    uint64_t found[CLASSES] = {0};
    (void)id;
    qemu_plugin_register_vcpu_tb_exec_inline(block, ADD_U64, &total, length);
    if (!is_a64) return; /* the classes of the 32-bit sets are not told apart */
    for (size_t place = 0; place < length; place++) {
        uint32_t word;
        memcpy(&word, qemu_plugin_insn_data(qemu_plugin_tb_get_insn(block, place)), sizeof word);
        found[instruction_class(word)]++;
    }
    for (int class = 0; class < CLASSES; class++)
        if (found[class]) qemu_plugin_register_vcpu_tb_exec_inline(block, ADD_U64, &by_class[class], found[class]);
}

static void called(plugin_id id, unsigned cpu, int64_t number, uint64_t first, uint64_t a2, uint64_t a3, uint64_t a4,
                   uint64_t a5, uint64_t a6, uint64_t a7, uint64_t a8) {
    (void)id, (void)cpu, (void)a2, (void)a3, (void)a4, (void)a5, (void)a6, (void)a7, (void)a8;
    if (number != close_number || (uint32_t)first != 0x5EED0000u) return;
    fprintf(out, "%llu", (unsigned long long)total);
    for (int class = 0; is_a64 && class < CLASSES; class++) fprintf(out, " %llu", (unsigned long long)by_class[class]);
    fputc('\n', out);
    fflush(out);
}

EXPORT int qemu_plugin_install(plugin_id id, const plugin_info *info, int count, char **arguments) {
    if (count != 1 || strncmp(arguments[0], "out=", 4) || !(out = fopen(arguments[0] + 4, "w"))) return -1;
    is_a64 = !strcmp(info->target_name, "aarch64");
    close_number = is_a64 ? 57 : 6;
    qemu_plugin_register_vcpu_tb_trans_cb(id, translated);
    qemu_plugin_register_vcpu_syscall_cb(id, called);
    return 0;
}
