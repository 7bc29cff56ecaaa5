// What the Propeller guest imports of WASI preview 1. Without a libc it builds in a second instead of a minute.
// Source: https://github.com/WebAssembly/WASI/blob/main/legacy/preview1/docs.md.
#pragma once
#include <stdint.h>

#define WASI(name) __attribute__((import_module("wasi_snapshot_preview1"), import_name(#name)))

enum { STDOUT = 1, STDERR = 2 };

typedef struct {
    const char *at;
    uint32_t size;
} wasi_bytes;

// Each gives 0, or the number of an error.
WASI(environ_sizes_get) int32_t environ_sizes_get(uint32_t *count, uint32_t *bytes);
WASI(environ_get) int32_t environ_get(char **variables, char *bytes);  // NAME=VALUE, each with a zero behind it
WASI(fd_write) int32_t fd_write(int32_t descriptor, const wasi_bytes *list, uint32_t count, uint32_t *written);
WASI(proc_exit) _Noreturn void proc_exit(int32_t code);
