#include "memory.h"

enum { ALIGNMENT = 16, PAGE = 65536 };

extern char __heap_base;  // where what the linker has laid out ends
static uintptr_t top;

void *allocate(uint64_t bytes) {
    if (top == 0) top = ((uintptr_t)&__heap_base + ALIGNMENT - 1) & ~(uintptr_t)(ALIGNMENT - 1);
    const uint64_t whole = (bytes + ALIGNMENT - 1) & ~(uint64_t)(ALIGNMENT - 1);
    const uint64_t most = UINT32_MAX - PAGE;  // so that no address wraps
    if (bytes > most || whole > most - top) return 0;
    const uint64_t end = top + whole, had = (uint64_t)__builtin_wasm_memory_size(0) * PAGE;
    if (end > had && __builtin_wasm_memory_grow(0, (end - had + PAGE - 1) / PAGE) == SIZE_MAX) return 0;
    void *given = (void *)top;
    top = (uintptr_t)end;
    return given;
}
