// Finds and takes down what a killed `attach`, or a VM that has ended, left behind. Each disk has a folder by which it
// is found; the steps are in an order in which none waits for a dead process.
import DiskTypes
import ImageChain
import LinuxIO
import MapRegistry
import QEMUMonitor
import SystemPackage

/// The steps by which disks without a VM, or without a supervisor, are cleaned up.
enum AttachmentCleanup {
    /// Ends the processes of a disk that no VM has any more, and removes its record. The disk's lock must be held.
    /// Returns why something that the guest wrote may be lost; nil: nothing is.
    @discardableResult
    static func takeDown(
        _ record: AttachmentRecord, _ key: String, _ registry: AttachmentRegistry
    ) throws(ImageError) -> String? {
        // The supervisor gives its server 30 s to finish.
        if let supervisor = record.supervisor { ProcessTermination.end(supervisor, timeout: 36_000) }
        if let server = record.server, server.isAlive { ProcessTermination.end(server, timeout: 30_000) }
        endUnrecorded(registry.folder(of: key).appending("disk.sock"))
        let trouble = try registry.record(key)?.trouble
        try registry.remove(key)
        return trouble
    }

    /// Undoes a failed attach: nothing is left in the VM, no process, no folder. What cannot be undone is left to the
    /// next `sweep`.
    static func undo(
        _ record: AttachmentRecord, _ key: String, _ registry: AttachmentRegistry, _ monitor: QEMUMonitor
    ) {
        do throws(ImageError) {
            // Only the record of a device that was plugged in could not be written: its guest must release it.
            if try monitor.hasDevice(record.id) { try monitor.unplug(record.id, timeout: 10_000) }
            try monitor.removeBehind(record.id)
            try takeDown(record, key, registry)
        } catch {
            SystemLog.write(.warning, "\(error)")
        }
    }

    /// Takes down what crashed commands and VMs that have ended left behind. The VM of this command is asked what it
    /// has; disks of others are taken down only when their VM is certainly gone.
    static func sweep(_ registry: AttachmentRegistry, _ monitor: QEMUMonitor) throws(ImageError) {
        for key in try registry.keys() {
            // The lock is held by the process that plugs the disk in or out.
            guard let lock = try registry.lock(key) else { continue }
            guard let record = try registry.record(lock.key) else {
                endUnrecorded(registry.folder(of: lock.key).appending("disk.sock"))
                try registry.remove(lock.key)
                continue
            }
            if record.machine.map({ !$0.isAlive }) ?? false {
                try takeDown(record, lock.key, registry)
            } else if record.qmp == monitor.path {
                try compare(record, lock.key, registry, monitor)
            } else if record.machine == nil, QEMUMonitor.isGone(record.qmp) {
                try takeDown(record, lock.key, registry)
            }
        }
    }

    private static func compare(
        _ record: AttachmentRecord, _ key: String, _ registry: AttachmentRegistry, _ monitor: QEMUMonitor
    ) throws(ImageError) {
        guard try monitor.hasDevice(record.id) else {
            // The guest or another program took the disk out, or it was never plugged in.
            try monitor.removeBehind(record.id)
            try takeDown(record, key, registry)
            return
        }
        guard !record.isPlugged else { return try mend(record, key, registry, monitor) }
        // It was plugged in, and only the process that did that died before it could record it.
        var known = record
        known.isPlugged = true
        try registry.write(known, key)
    }

    /// The VM has the disk, and no process supervises its server: starts both again. QEMU reconnects by itself, and
    /// what was in flight is served again. When the image cannot be opened, the present command goes on, and the
    /// system's log has the error.
    private static func mend(
        _ record: AttachmentRecord, _ key: String, _ registry: AttachmentRegistry, _ monitor: QEMUMonitor
    ) throws(ImageError) {
        guard record.how == .vhostUser, let socket = record.socket, record.serveArguments != nil,
            record.supervisor.map({ !$0.isAlive }) ?? true
        else { return }
        do throws(ImageError) {
            let files = try reopened(record)
            // A server goes on without its supervisor, but would not be replaced when it dies.
            if let server = record.server, server.isAlive { ProcessTermination.end(server, timeout: 30_000) }
            endUnrecorded(socket)
            let config = SupervisorConfig(
                key: key, registryFolder: registry.folder, executable: "/proc/self/exe",
                arguments: try HotPlug.served(record, files), socket: socket, user: monitor.peer?.user ?? 0,
                group: monitor.peer?.group ?? 0, machine: record.machine, files: files.known, isTakeover: true)
            var known = record
            try HotPlug.start(config, files, &known)
            try registry.write(known, key)
        } catch {
            SystemLog.write(.error, "\(record.id): its server cannot be started again: \(error.named(record.image))")
        }
    }

    /// Opens the image by its name again. Throws unless the name leads to the same files.
    private static func reopened(_ record: AttachmentRecord) throws(ImageError) -> HeldFiles {
        var open = OpenOptions()
        let words = record.serveArguments ?? []
        for (option, value) in zip(words, words.dropFirst()) {
            switch option {
            case "--format": open.format = try format(value)
            case "--snapshot": open.snapshot = ArgumentText.encode(value.bytes)
            case "--allow-path": FilePath(value).map { open.allowedFolders.append($0) }
            case "--working-folder": open.workingFolder = FilePath(value)
            default: break
            }
        }
        open.lock = false
        let files = try HeldFiles(try ImageChain.open(path: record.image, options: open), writable: !record.readOnly)
        guard files.known.map(\.identity) == record.files else {
            throw ImageError(
                .reference, "another file has taken the name of the image, or of a file that it refers to",
                advice: "give the old one its name back")
        }
        return files
    }

    /// A format that is not known is no reason to look at the file for one: a guest can write any signature into a raw disk.
    private static func format(_ name: FileName) throws(ImageError) -> ImageFormat {
        guard let format = name.text.flatMap({ ImageFormat(rawValue: $0) }) else {
            throw ImageError(
                .unsupported, "the disk's record names the format \"\(name)\", which is not known",
                advice: "detach the disk and attach it again")
        }
        return format
    }

    /// Ends processes that were started for a socket, and are not recorded because the process that started them was
    /// killed.
    private static func endUnrecorded(_ socket: FilePath) {
        for name in Filesystem.listIfThere("/proc") {
            guard let pid = Int32(name), let identity = ProcessIdentity(pid: pid), identity != .current,
                let line = try? Filesystem.readBytes("/proc/\(name)/cmdline")
            else { continue }
            let words = line.split(separator: 0).map { FileName($0) }
            let serves = zip(words, words.dropFirst()).contains { $0 == "--socket-path" && $1 == socket.name }
            let supervises =
                words.count == 3 && words[1] == FileName(HotPlug.supervisorVerb)
                && words[2].text.flatMap(SupervisorConfig.decoded)?.socket == socket
            guard words.first == "qblk", serves || supervises else { continue }
            ProcessTermination.end(identity, timeout: supervises ? 36_000 : 30_000)
        }
    }
}
