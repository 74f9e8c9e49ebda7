// "no allocation per request" is a claim, and claims are tested. Linked into the tests, this stands before the C
// library's allocator and counts what each thread asks of it.
#ifndef COUNT_ALLOCATIONS_H
#define COUNT_ALLOCATIONS_H
/// How often this thread allocated so far. Always 0 where a sanitizer owns the allocator.
unsigned long qblk_allocations(void);
/// How often a thread, by its number in /proc/self/task, allocated so far; 0 for one that never did.
unsigned long qblk_allocations_of(int thread);
/// Whether allocations are counted in this build.
int qblk_counts_allocations(void);
#endif
