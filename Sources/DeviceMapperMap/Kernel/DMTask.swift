// Libdevmapper as Swift wants it: a task that frees itself, failures with the kernel's reason, and a library that
// never prints.

import CQblk
import Glibc
import Synchronization

/// What went wrong in the library or the kernel. `DeviceMapper` says it in the user's words.
struct DMFailure: Error {
    /// The ioctl's errno; 0 where the library failed before it.
    let errno: Int32
    /// What the library would have printed.
    let log: String

    /// The kernel's reason, or the library's, in a few words.
    var reason: String {
        if errno != 0 { return unsafe String(cString: strerror(errno)) }
        return log.isEmpty ? "libdevmapper gives no reason" : log
    }
}

/// The library's messages: kept instead of printed. Written and read only inside `DeviceMapper`'s turn.
enum DMLog {
    private static let lines = Mutex<[String]>([])

    /// Errors and warnings go here from now on; anything below is dropped.
    static func install() {
        unsafe qb_dm_log_to { level, text in
            guard level <= 4, let text = unsafe text else { return }
            let line = unsafe String(cString: text)
            DMLog.lines.withLock { if $0.count < 16 { $0.append(line) } }
        }
    }
    static func clear() { lines.withLock { $0.removeAll() } }
    static var text: String { lines.withLock { $0.joined(separator: "; ") } }
}

/// One call to the kernel in the making.
@safe struct DMTask: ~Copyable {
    let raw: OpaquePointer

    /// A task of the kind `type` (DM_DEVICE_...), about device `name` where it is about one.
    static func make(_ type: Int, name: String? = nil) throws(DMFailure) -> DMTask {
        DMLog.clear()
        guard let raw = unsafe dm_task_create(Int32(type)) else { throw DMFailure(errno: 0, log: DMLog.text) }
        let task = unsafe DMTask(raw: raw)
        if let name { try unsafe task.need(dm_task_set_name(raw, name)) }
        return task
    }

    private init(raw: OpaquePointer) { unsafe self.raw = unsafe raw }

    deinit { unsafe dm_task_destroy(raw) }

    /// Checks the result of a setter.
    func need(_ result: Int32) throws(DMFailure) {
        if result != 1 { throw DMFailure(errno: 0, log: DMLog.text) }
    }

    func run() throws(DMFailure) {
        guard unsafe dm_task_run(raw) == 1 else {
            throw unsafe DMFailure(errno: dm_task_get_errno(raw), log: DMLog.text)
        }
    }

    /// Adds the lines of a table.
    func add(_ count: Int, _ target: (Int) -> DMTarget) throws(DMFailure) {
        for index in 0..<count {
            let line = target(index)
            try unsafe need(dm_task_add_target(raw, line.start, line.length, line.type, line.parameters))
        }
    }

    func info() throws(DMFailure) -> dm_info {
        var info = dm_info()
        try unsafe need(dm_task_get_info(raw, &info))
        return info
    }
}
