// Takes down what is left of a map: loop devices, mount, FUSE connection, server. The steps are in an order in which
// none waits for a process that is dead or stuck.
import CQblk
import DiskTypes
import Glibc
import LinuxIO
import MapRegistry
import SystemPackage

/// The steps by which a map is taken down from outside its processes.
enum LoopCleanup {
    /// Makes everything that waits for the FUSE file fail, now and later. The mount stays.
    static func abort(_ mountPoint: FilePath) {
        // MNT_FORCE ends the connection before it asks whether the mount is busy, and a loop device keeps it busy.
        unmount(mountPoint, Int32(MNT_FORCE))
    }

    /// Removes the mount. A process that has the file open keeps the file system until the connection ends.
    static func unmount(_ mountPoint: FilePath) {
        for _ in 0..<20 {
            if unmount(mountPoint, 0) == 0 || errno != EBUSY { return }
            usleep(10_000)
        }
        unmount(mountPoint, Int32(QB_MNT_DETACH))
    }

    @discardableResult private static func unmount(_ mountPoint: FilePath, _ flags: Int32) -> Int32 {
        unsafe mountPoint.withPlatformString { unsafe umount2($0, flags | Int32(QB_UMOUNT_NOFOLLOW)) }
    }

    /// Ends the connection of a FUSE file that nothing uses any more, and takes its mount away. Other mount namespaces
    /// may hold copies of the mount, which would keep the connection, and so the server, for as long as they last.
    static func endConnection(_ mountPoint: FilePath) {
        abort(mountPoint)
        unmount(mountPoint)
    }

    /// Writes what the page cache has to the disk while the map is still there: what fails now may still be copied
    /// elsewhere.
    static func flush(
        _ record: MapRecord, _ notice: @escaping @Sendable (String) -> Void = { _ in }
    ) throws(ImageError) {
        guard !record.readOnly, let number = record.loops.first, record.ownsLoop(number) else { return }
        let fd = unsafe open(record.device, O_RDONLY | O_CLOEXEC)
        guard fd >= 0 else { return }
        defer { close(fd) }
        do throws(Errno) {
            try WaitNotice.during(waitText(record), notice) { () throws(Errno) in try SyncProcess.sync(fd) }
        } catch {
            throw ImageError(
                .system, "what was written cannot be brought to the disk: \(errorText(error.rawValue))",
                advice: "copy what you need from \(record.device); --deferred takes it down all the same")
        }
    }

    /// Brings what was written to the disk, unless the map was given up: then nothing can be, and the device is of no use to
    /// copy from. The record as it is afterwards.
    static func flushOrGivenUp(
        _ record: MapRecord, _ registry: MapRegistry, _ notice: @escaping @Sendable (String) -> Void
    ) throws(ImageError) -> MapRecord {
        if record.failure != nil { return record }
        do throws(ImageError) { try flush(record, notice) } catch {
            // A server tells its supervisor within a second that its image was cut.
            for _ in 0..<20 {
                if let now = try registry.record(of: record.name), now.failure != nil { return now }
                usleep(100_000)
            }
            throw error
        }
        return record
    }

    /// What `unmap` says when a wait lasts: for which process, and what to do about one that is stopped.
    static func waitText(_ record: MapRecord) -> String {
        let processes = [("supervisor", record.supervisor), ("server", record.server)]
        let stopped = processes.compactMap { role, process in
            process.flatMap { $0.isStopped ? (role: role, pid: $0.pid) : nil }
        }
        if !stopped.isEmpty {
            let roles = stopped.map(\.role).joined(separator: " and ")
            return "waiting for \(record.device)'s \(roles), stopped by a signal: continue with kill -CONT "
                + stopped.map { "\($0.pid)" }.joined(separator: " ")
        }
        if let server = record.server, server.isAlive {
            return "waiting for \(record.device)'s server to write back (pid \(server.pid))"
        }
        if record.server != nil, let supervisor = record.supervisor, supervisor.isAlive {
            return "waiting for \(record.device)'s supervisor to start the next server (pid \(supervisor.pid))"
        }
        return "waiting for what was written to \(record.device) to reach the disk"
    }

    /// Milliseconds that a server which wrote, and its supervisor, may take to end: a slow disk may have much to write.
    static let writerTimeout: Int32 = 600_000

    /// Waits up to `timeout` milliseconds for a process that is about to end, and kills it if it does not. False: it
    /// had to be killed. `waiting` is called every 10 seconds.
    @discardableResult
    static func end(_ process: ProcessIdentity, timeout: Int32 = 3000, waiting: () -> Void = {}) -> Bool {
        do throws(Errno) {
            var left = timeout
            while left > 0 {
                let turn = min(left, 10_000)
                if try process.waitForEnd(milliseconds: turn) { return true }
                left -= turn
                waiting()
            }
            try process.kill(SIGKILL)
            _ = try process.waitForEnd(milliseconds: 5000)
            return false
        } catch {
            // The process is gone already, or this one may not kill it: nothing more can be done.
            return true
        }
    }

    /// Whether requests to the device would be answered.
    static func isServed(_ record: MapRecord) -> Bool { record.server.map(\.isAlive) ?? true }

    /// Takes down a map that has no record, because the process that made it was killed: the loop devices on its FUSE
    /// file, and the mount. The device was not announced yet, so it is not asked for its users. A server that is left
    /// ends with its connection.
    static func takeDownUnrecorded(_ mountPoint: FilePath) throws(ImageError) {
        var isMounted = false
        do throws(Errno) { isMounted = try MountTable.read().contains { $0.mountPoint == mountPoint } } catch {
            throw ImageError(.system, "cannot read the mount table: \(errorText(error.rawValue))")
        }
        if isMounted { abort(mountPoint) }
        let names = [mountPoint, mountPoint.extended(" (deleted)")]
        for device in try LoopDevice.all() {
            guard let file = device.backingFile, names.contains(file) else { continue }
            try device.detach()
        }
        if isMounted { unmount(mountPoint) }
    }

    /// Takes everything down that the record names, except for a device that is in use and served. Its supervisor,
    /// if any, must be gone.
    static func clean(
        _ record: MapRecord, deferred: Bool, _ notice: @escaping @Sendable (String) -> Void = { _ in }
    ) throws(ImageError) -> Bool {
        if let mountPoint = record.mountPoint, !isServed(record) { abort(mountPoint) }
        for number in record.loops {
            // A device without a server is of no use to its users: it goes when they close it.
            let lazily = deferred || !isServed(record)
            let gone = try LoopOpeners.detach(number, of: record, deferred: lazily)
            if !gone && isServed(record) { return false }
        }
        if let mountPoint = record.mountPoint { endConnection(mountPoint) }
        if let server = record.server, server.isAlive {
            WaitNotice.during(waitText(record), notice) {
                end(server, timeout: record.readOnly ? 500 : writerTimeout)
            }
        }
        return true
    }
}
