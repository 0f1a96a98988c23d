/* A plugin of qemu's user-mode emulators: how many instructions a program executes, in all and by function, the same
 * number on every run. Lines "count name", the function "total" last; functions need symbols.
 *
 *   cc -shared -fPIC count_instructions.c -o libcount.so
 *   qemu-aarch64 -plugin ./libcount.so -d plugin -D counts.txt program ...
 *
 * The declarations are those of version 1 of qemu's plugin interface, whose header few systems install. */
#include <stdint.h>
#include <stdio.h>
#include <string.h>

struct qemu_plugin_tb;
struct qemu_plugin_insn;
typedef uint64_t plugin_id;

extern void qemu_plugin_register_vcpu_tb_trans_cb(plugin_id id, void (*translated)(plugin_id, struct qemu_plugin_tb *));
extern void qemu_plugin_register_vcpu_tb_exec_inline(struct qemu_plugin_tb *block, int add, void *to, uint64_t count);
extern void qemu_plugin_register_atexit_cb(plugin_id id, void (*ended)(plugin_id, void *), void *user);
extern size_t qemu_plugin_tb_n_insns(const struct qemu_plugin_tb *block);
extern struct qemu_plugin_insn *qemu_plugin_tb_get_insn(const struct qemu_plugin_tb *block, size_t index);
extern const char *qemu_plugin_insn_symbol(const struct qemu_plugin_insn *instruction);
extern void qemu_plugin_outs(const char *text);

__attribute__((visibility("default"))) int qemu_plugin_version = 1;

enum { FUNCTIONS = 4096, NAME_BYTES = 80 };

struct function {
    char name[NAME_BYTES];
    uint64_t count;
};

/* What finds no room any more, or has no symbol, is counted in the first. */
static struct function functions[FUNCTIONS] = {{"?", 0}};
static size_t known = 1;

static struct function *function_of(const char *name) {
    if (name == NULL)
        return &functions[0];
    for (size_t i = 0; i < known; i++)
        if (!strncmp(functions[i].name, name, NAME_BYTES - 1))
            return &functions[i];
    if (known == FUNCTIONS)
        return &functions[0];
    snprintf(functions[known].name, NAME_BYTES, "%s", name);
    return &functions[known++];
}

/* A block, which runs from its first instruction to its last, is of one function. */
static void translated(plugin_id id, struct qemu_plugin_tb *block) {
    (void)id;
    struct function *function = function_of(qemu_plugin_insn_symbol(qemu_plugin_tb_get_insn(block, 0)));
    qemu_plugin_register_vcpu_tb_exec_inline(block, 0, &function->count, qemu_plugin_tb_n_insns(block));
}

static void put(const char *name, uint64_t count) {
    char number[24];
    snprintf(number, sizeof number, "%llu ", (unsigned long long)count);
    qemu_plugin_outs(number);
    qemu_plugin_outs(name);
    qemu_plugin_outs("\n");
}

static void ended(plugin_id id, void *user) {
    (void)id;
    (void)user;
    uint64_t total = 0;
    for (size_t i = 0; i < known; i++) {
        total += functions[i].count;
        if (functions[i].count > 0)
            put(functions[i].name, functions[i].count);
    }
    put("total", total);
}

__attribute__((visibility("default"))) int qemu_plugin_install(plugin_id id, const void *info, int count,
                                                               char **words) {
    (void)info;
    (void)count;
    (void)words;
    qemu_plugin_register_vcpu_tb_trans_cb(id, translated);
    qemu_plugin_register_atexit_cb(id, ended, NULL);
    return 0;
}
