// Finds out which process uses an image, for the message that says the image is locked. This program's own maps and
// disks in VMs are recorded in the registry; other processes have the file open.

import DiskTypes
import LinuxIO
import MapRegistry
import SystemPackage

enum ImageUser {
    /// The process that uses the file at `path`, and how the file is released; nil when that cannot be found out. Files
    /// are compared by identity, because a map may have any name.
    static func description(of path: FilePath) -> String? {
        guard let identity = Filesystem.identity(of: path) else { return nil }
        let registry = MapRegistry()
        let maps = (try? registry.all()) ?? []
        let disks = (try? AttachmentRegistry(registry).all()) ?? []
        if let map = maps.first(where: { isSame($0.image, identity) || isBacking($0, identity) }) {
            return
                "it is mapped as \(printable(map.name)) (\(map.device)): `qblk unmap \(printable(map.name))` takes it down"
        }
        if let disk = disks.first(where: { isSame($0.image, identity) }) {
            return "it is the disk \(printable(disk.id)) of a VM: qblk detach \(disk.id) --qmp \(disk.qmp)"
        }
        guard let pid = process(with: identity) else { return nil }
        if let map = maps.first(where: { [$0.server?.pid, $0.supervisor?.pid].contains(pid) }) {
            return "the map \(printable(map.name)) (\(map.device)) uses it"
        }
        if let disk = disks.first(where: { [$0.server?.pid, $0.supervisor?.pid].contains(pid) }) {
            return "the disk \(printable(disk.id)) of a VM uses it"
        }
        let name = Filesystem.readIfThere("/proc/\(pid)/comm")?.filter { !$0.isNewline } ?? "a process"
        return "\(printable(name)) (process \(pid)) has it open"
    }

    private static func isSame(_ path: FilePath, _ identity: FileIdentity) -> Bool {
        Filesystem.identity(of: path) == identity
    }

    /// A plain loop device knows its file by number: the image may have another name by now.
    private static func isBacking(_ map: MapRecord, _ identity: FileIdentity) -> Bool {
        map.backingDevice == identity.device && map.backingInode == identity.inode
    }

    /// A process, other than this one, that has the file open: one that may write to it before one that reads.
    private static func process(with identity: FileIdentity) -> Int32? {
        let own = ProcessIdentity.current.pid
        var reader: Int32?
        for name in Filesystem.listIfThere("/proc") {
            guard let pid = Int32(name), pid != own else { continue }
            for fd in Filesystem.listIfThere("/proc/\(pid)/fd")
            where Filesystem.identity(of: "/proc/\(pid)/fd/\(fd)") == identity {
                if mayWrite(pid, fd) { return pid }
                reader = reader ?? pid
            }
        }
        return reader
    }

    /// The access mode is in the lowest two bits of the flags, which are in octal there.
    private static func mayWrite(_ pid: Int32, _ fd: String) -> Bool {
        let lines = (Filesystem.readIfThere("/proc/\(pid)/fdinfo/\(fd)") ?? "").split(separator: "\n")
        let flags = lines.first { $0.hasPrefix("flags:") }?.split(separator: "\t").last.flatMap { Int($0, radix: 8) }
        return (flags ?? 0) & 3 != 0
    }
}
