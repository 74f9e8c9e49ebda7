// A server of a block device must not wait for memory: the kernel may free some by writing to that very device. So before
// it serves, all that its threads will touch is brought into memory and kept there.
import CQblk
import Glibc
public import SystemPackage

/// The process's memory, brought in and held.
public enum ResidentMemory {
    /// Raises the limit on locked memory as far as this process may. False: a limit holds (as it does without CAP_IPC_LOCK,
    /// and it is often smaller than a server). Then future mappings must not be locked: those beyond it would fail.
    public static func raiseLimit() -> Bool {
        var limit = rlimit()
        let resource = __rlimit_resource_t(UInt32(QB_RLIMIT_MEMLOCK))
        guard unsafe getrlimit(resource, &limit) == 0 else { return Privileges.has(.ipcLock) }
        var most = rlimit(rlim_cur: rlim_t.max, rlim_max: rlim_t.max)
        if unsafe setrlimit(resource, &most) == 0 { return true }
        limit.rlim_cur = limit.rlim_max
        _ = unsafe setrlimit(resource, &limit)
        return limit.rlim_cur == rlim_t.max || Privileges.has(.ipcLock)
    }

    /// Touches and locks everything that is mapped now, but for files of data: their pages are the system's. Where locking
    /// is not granted the memory is touched all the same. Throws the first refusal, after all was tried.
    public static func hold() throws(Errno) {
        var refusal: Errno?
        for region in regions(Filesystem.readIfThere("/proc/self/maps") ?? "") {
            guard let start = unsafe UnsafeMutableRawPointer(bitPattern: region.start) else { continue }
            if unsafe mlock(start, Int(region.count)) == 0 { continue }
            refusal = refusal ?? .last
            unsafe madvise(start, Int(region.count), region.isWritable ? QB_MADV_POPULATE_WRITE : QB_MADV_POPULATE_READ)
        }
        if let refusal { throw refusal }
    }

    /// A part of the address space that the process's threads use.
    struct Region: Hashable {
        let start: UInt
        let count: UInt
        let isWritable: Bool
    }

    /// The regions in the text of /proc/PID/maps that belong to the program: its code, its private memory, and memory that
    /// it shares with other processes without a file.
    static func regions(_ maps: String) -> [Region] {
        maps.split(separator: "\n").compactMap { line in
            let fields = line.split(separator: " ", maxSplits: 5, omittingEmptySubsequences: true)
            guard fields.count >= 5, !fields[1].hasPrefix("---") else { return nil }
            let name = fields.count > 5 ? fields[5].drop { $0 == " " } : ""
            // [vvar], [vdso], [vsyscall] are the kernel's.
            guard !name.hasPrefix("[v"), fields[1].hasSuffix("p") || name.hasPrefix("/memfd:") else { return nil }
            let ends = fields[0].split(separator: "-")
            guard ends.count == 2, let start = UInt(ends[0], radix: 16), let end = UInt(ends[1], radix: 16), end > start
            else { return nil }
            return Region(start: start, count: end - start, isWritable: fields[1].dropFirst().first == "w")
        }
    }

    /// Has threads that are made from now on get stacks of so many bytes: a stack is held whole.
    public static func setThreadStack(_ bytes: Int) { _ = qb_set_thread_stack(bytes) }

    /// Keeps so many bytes ready for `malloc`, so that small allocations do not have to ask the system.
    public static func reserveHeap(_ bytes: Int) { qb_reserve_heap(bytes) }
}
