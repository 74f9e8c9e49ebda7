// Attach may be killed between any two of its steps, and VMs end without a word to us. What is left behind is found
// by its folder, and taken down in an order in which no step waits for what is dead.
import DiskTypes
import ImageChain
import LinuxIO
import MapRegistry
import QEMUMonitor
import SystemPackage

enum AttachmentCleanup {
    /// Ends the processes of a disk that no VM has any more, and forgets it. Its lock must be held. Returns why something
    /// that the guest wrote may be lost.
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

    /// After a failed attach: nothing in the VM, no process, no folder. What cannot be undone is left to the next sweep.
    static func undo(
        _ record: AttachmentRecord, _ key: String, _ registry: AttachmentRegistry, _ monitor: QEMUMonitor
    ) {
        do throws(ImageError) {
            // A device that came up after all, when only the record could not be written, needs its guest to go.
            if try monitor.hasDevice(record.id) { try monitor.unplug(record.id, timeout: 10_000) }
            try monitor.removeBehind(record.id)
            try takeDown(record, key, registry)
        } catch {
            SystemLog.write(.warning, "\(error)")
        }
    }

    /// Takes down what crashed commands and VMs that have ended left behind. The VM at hand is asked what it has; of
    /// others only those that are gone for certain are dealt with.
    static func sweep(_ registry: AttachmentRegistry, _ monitor: QEMUMonitor) throws(ImageError) {
        for key in try registry.keys() {
            // Held by the process that plugs it in or out.
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
            // The guest or another program took it out, or it never came in.
            try monitor.removeBehind(record.id)
            try takeDown(record, key, registry)
            return
        }
        guard !record.isPlugged else { return try mend(record, key, registry, monitor) }
        // It came in, and only the process that plugged it in died before it could record that.
        var known = record
        known.isPlugged = true
        try registry.write(known, key)
    }

    /// The VM has the disk, and nothing watches over its server any more: starts both anew. QEMU reconnects by itself, and
    /// what was in flight is served again. An image that cannot be opened is no reason to refuse the command at hand.
    private static func mend(
        _ record: AttachmentRecord, _ key: String, _ registry: AttachmentRegistry, _ monitor: QEMUMonitor
    ) throws(ImageError) {
        guard record.how == .vhostUser, let socket = record.socket, record.serveArguments != nil,
            record.supervisor.map({ !$0.isAlive }) ?? true
        else { return }
        do throws(ImageError) {
            let files = try reopened(record)
            // Without its supervisor a server serves on, but nothing would follow it.
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

    /// The image by its name, which must lead to the files that it led to.
    private static func reopened(_ record: AttachmentRecord) throws(ImageError) -> HeldFiles {
        var open = OpenOptions()
        let words = record.serveArguments ?? []
        for (option, value) in zip(words, words.dropFirst()) {
            switch option {
            case "--format": open.format = value.text.flatMap { ImageFormat(rawValue: $0) }
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

    /// Ends processes that were started for a socket and died unrecorded with the process that started them.
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
