// With udev, device nodes are udev's work and callers must wait for it; without udev, waiting never ends and the
// library must make the nodes. This tells the two apart and waits no longer than it must.

import CQblk
import Glibc

enum DMUdev {
    enum Purpose {
        /// For users: node, links, scans.
        case visible
        /// A building block: no node, no rules.
        case hidden
    }

    /// Longest wait for udev's rules, in milliseconds. Udev gives up on a rule later than that; the node is made by
    /// us then.
    private static let timeout = 10_000

    /// Runs a task that makes or removes a device and waits until udev, where there is one, has dealt with it.
    static func run(_ task: borrowing DMTask, _ purpose: Purpose) throws(DMFailure) {
        let present = isPresent
        dm_udev_set_sync_support(present ? 1 : 0)
        var cookie: UInt32 = 0
        var flags: Int32 = 0
        if purpose == .hidden {
            flags =
                DM_UDEV_DISABLE_DM_RULES_FLAG | DM_UDEV_DISABLE_SUBSYSTEM_RULES_FLAG | DM_UDEV_DISABLE_DISK_RULES_FLAG
                | DM_UDEV_DISABLE_OTHER_RULES_FLAG | DM_UDEV_DISABLE_LIBRARY_FALLBACK
        }
        // Without udev no cookie at all for visible devices: the library then makes and removes the nodes itself.
        // With these flags and no udev, a cookie is 0 and waits for nothing.
        if present || purpose == .hidden { try unsafe task.need(dm_task_set_cookie(task.raw, &cookie, UInt16(flags))) }
        do {
            try task.run()
        } catch {
            if present { settle(cookie) }
            throw error
        }
        if present { settle(cookie) }
        dm_task_update_nodes()
    }

    /// Whether a udev that can answer us runs: its socket alone proves nothing in a container or a minimal system,
    /// and the answer is a semaphore, which must be in our namespace.
    static var isPresent: Bool {
        guard unsafe access("/run/udev/control", F_OK) == 0 else { return false }
        // Nil where the kernel has no such namespaces: then all processes have that in common.
        let ours = link("/proc/self/ns/ipc")
        guard let processes = unsafe opendir("/proc") else { return false }
        defer { unsafe closedir(processes) }
        while let entry = unsafe readdir(processes) {
            let name = unsafe withUnsafeBytes(of: &entry.pointee.d_name) { bytes in
                unsafe String(decoding: bytes.prefix { $0 != 0 }, as: UTF8.self)
            }
            guard Int(name) != nil, let comm = firstLine("/proc/\(name)/comm") else { continue }
            guard comm == "systemd-udevd" || comm == "udevd" || comm == "systemd-udev" else { continue }
            if link("/proc/\(name)/ns/ipc") == ours { return true }
        }
        return false
    }

    /// Waits for udev to complete `cookie`, and drops the semaphore if it does not come.
    private static func settle(_ cookie: UInt32) {
        guard cookie != 0 else { return }
        var waited = 0
        while waited < timeout {
            var ready: Int32 = 0
            guard unsafe dm_udev_wait_immediate(cookie, &ready) == 1 else { return }
            if ready != 0 { return }
            usleep(2_000)
            waited += 2
        }
        dm_udev_complete(cookie)
        var ready: Int32 = 0
        _ = unsafe dm_udev_wait_immediate(cookie, &ready)
    }

    private static func link(_ path: String) -> String? {
        unsafe withUnsafeTemporaryAllocation(of: UInt8.self, capacity: 256) { buffer in
            guard let start = buffer.baseAddress else { return nil }
            let count = unsafe start.withMemoryRebound(to: CChar.self, capacity: 256) { unsafe readlink(path, $0, 256) }
            guard count > 0 else { return nil }
            return unsafe String(decoding: buffer.prefix(count), as: UTF8.self)
        }
    }

    private static func firstLine(_ path: String) -> String? {
        let fd = unsafe open(path, O_RDONLY | O_CLOEXEC)
        guard fd >= 0 else { return nil }
        defer { close(fd) }
        return unsafe withUnsafeTemporaryAllocation(of: UInt8.self, capacity: 64) { buffer in
            let count = unsafe read(fd, buffer.baseAddress, 64)
            guard count > 0 else { return nil }
            return unsafe String(decoding: buffer.prefix(count).prefix { $0 != 0x0a }, as: UTF8.self)
        }
    }
}
