// Memory shared with a stranger can lose its pages: its owner cuts the file short, and the next touch raises SIGBUS,
// which ends a process that serves others, too. Here the touch finds zeros instead: it harms only the owner that cut
// it.
import CQblk
import Glibc
import Synchronization

/// Ranges of this process's address space whose pages may go away.
public enum SIGBUSGuard {
    /// A guarded range, to take out again.
    public struct Range: Sendable { fileprivate let index: Int }

    private static let limit = 8192
    private static let page: UInt = 4096

    /// Start and end of each range; a start of 0 is a free place. Only atomics: a signal handler reads it.
    @safe private final class Table: Sendable {
        nonisolated(unsafe) let words: UnsafeMutablePointer<Atomic<UInt>>
        init() {
            unsafe words = .allocate(capacity: 2 * SIGBUSGuard.limit)
            for i in 0..<2 * SIGBUSGuard.limit { unsafe (words + i).initialize(to: Atomic(0)) }
        }
    }
    private static let table = Table()
    private static let writer = Mutex<Bool>(false)

    /// Guards `count` bytes at `start`, which are mapped pages. Nil when there are too many ranges: then they are not.
    public static func add(_ start: UnsafeMutableRawPointer, count: Int) -> Range? {
        let words = unsafe table.words
        return writer.withLock { isInstalled in
            if !isInstalled {
                install()
                isInstalled = true
            }
            for i in 0..<limit where unsafe words[2 * i].load(ordering: .relaxed) == 0 {
                unsafe words[2 * i + 1].store(UInt(bitPattern: start) + UInt(count), ordering: .relaxed)
                unsafe words[2 * i].store(UInt(bitPattern: start), ordering: .releasing)
                return Range(index: i)
            }
            return nil
        }
    }

    /// Guards the range no longer: before it is unmapped.
    public static func remove(_ range: Range) {
        writer.withLock { _ in unsafe table.words[2 * range.index].store(0, ordering: .releasing) }
    }

    /// For who copies out of mappings of its own, guarded by `qb_copy_mapped`.
    static func prepare() {
        writer.withLock { isInstalled in
            if !isInstalled {
                install()
                isInstalled = true
            }
        }
    }

    private static func install() {
        // Made here, not in the handler.
        _ = table
        var action = sigaction()
        unsafe action.__sigaction_handler.sa_sigaction = { signal, info, _ in
            if let info = unsafe info { unsafe qb_end_copy(qb_fault_address(info)) }
            let address = unsafe info.map { unsafe UInt(bitPattern: qb_fault_address($0)) } ?? 0
            guard SIGBUSGuard.replace(address) else {
                // Not ours: the default is what it would have been.
                Glibc.signal(SIGBUS, SIG_DFL)
                return
            }
        }
        action.sa_flags = SA_SIGINFO
        unsafe sigaction(SIGBUS, &action, nil)
    }

    /// Puts a page of zeros where one is gone. False when the address is in no guarded range.
    private static func replace(_ address: UInt) -> Bool {
        let words = unsafe table.words
        for i in 0..<limit {
            let start = unsafe words[2 * i].load(ordering: .acquiring)
            guard start != 0, address >= start, unsafe address < words[2 * i + 1].load(ordering: .relaxed) else {
                continue
            }
            let place = unsafe UnsafeMutableRawPointer(bitPattern: address & ~(page - 1))
            let flags = MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED
            return unsafe mmap(place, Int(page), PROT_READ | PROT_WRITE, flags, -1, 0) != MAP_FAILED
        }
        return false
    }
}
