// What a server asks of the kernel so that it does not wait for itself, and what it does where the kernel refuses. The
// system may write to a map's disk in order to free memory; a server that waited for free memory then would wait for
// ever.
import LinuxIO
import SystemPackage

/// A server's protection against waiting for itself.
struct ServerProtection {
    /// What was refused: the call, and the kernel's error.
    private var refusals: [String] = []
    private var mounts: PrivateMounts?
    /// A read-only disk is never written to in order to free memory.
    private let writable: Bool

    /// Bytes of stack of each thread.
    private static let stack = 1 << 20
    /// Bytes that are kept ready for the writer's helper thread, which allocates.
    private static let heap = 4 << 20

    init(writable: Bool) { self.writable = writable }

    /// To be called first, while the process has one thread: all others are made by it and inherit its flags.
    static func begin(writable: Bool) -> ServerProtection {
        var made = ServerProtection(writable: writable)
        made.attempt("PR_SET_IO_FLUSHER") { () throws(Errno) in try ThreadFlags.markAsIOFlusher() }
        if !ThreadFlags.protectFromOOM() { made.refusals.append("oom_score_adj") }
        ResidentMemory.setThreadStack(stack)
        // This includes memory that is mapped later.
        if ResidentMemory.raiseLimit() {
            made.attempt("mlockall") { () throws(Errno) in try ThreadFlags.lockMemory() }
        } else {
            made.refusals.append("mlockall: limited")
        }
        if writable { ResidentMemory.reserveHeap(heap) }
        do throws(Errno) { made.mounts = try PrivateMounts() } catch {
            made.refusals.append("unshare: \(errorText(error.rawValue))")
        }
        return made
    }

    /// To be called when everything is open and every thread runs. Returns sentences for the user.
    func complete() -> [String] {
        var made = self
        if writable { made.attempt("mlock") { () throws(Errno) in try ResidentMemory.hold() } }
        if let mounts { made.attempt("umount") { () throws(Errno) in try mounts.detachAll() } }
        guard !made.refusals.isEmpty else { return [] }
        return [
            "its server is not wholly protected against memory shortage (\(made.refusals.joined(separator: ", "))): "
                + "writers in its memory cgroup may make it wait for itself"
        ]
    }

    private mutating func attempt(_ what: String, _ step: () throws(Errno) -> Void) {
        do throws(Errno) { try step() } catch { refusals.append("\(what): \(errorText(error.rawValue))") }
    }
}
