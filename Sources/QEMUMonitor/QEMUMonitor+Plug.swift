// Plugging a disk in and out is a few QMP commands each, in an order that leaves nothing behind when one of them
// fails.
public import DiskTypes
import LinuxIO
public import SystemPackage

/// A disk to plug into a VM.
public struct PluggedDisk: Sendable {
    /// The device's id. What stands behind it gets names made of it.
    public let id: String
    /// The bus to plug it into, by QEMU's id.
    public let bus: String
    /// Virtqueues of the device.
    public let queues: Int

    /// As long as an id can be so that the block node's name, made of it, has QEMU's 31 bytes at most.
    public static let longestID = 24

    /// The id must have passed `check`.
    public init(id: String, bus: String, queues: Int) {
        self.id = id
        self.bus = bus
        self.queues = queues
    }

    /// Refuses ids that QEMU would, and longer ones than its names for block nodes allow.
    public static func check(_ id: String) throws(ImageError) {
        let rules = "use up to \(longestID) of A-Z a-z 0-9 - . _, starting with a letter"
        let bytes = Array(id.utf8)
        guard let first = bytes.first, isLetter(first), bytes.count <= longestID,
            bytes.allSatisfy({ isLetter($0) || (48...57).contains($0) || "-._".utf8.contains($0) })
        else { throw ImageError(.reference, "'\(printable(id))' cannot be the id of a device", advice: rules) }
    }

    private static func isLetter(_ byte: UInt8) -> Bool { (65...90).contains(byte) || (97...122).contains(byte) }

    var chardev: String { id + "-socket" }
    var node: String { id + "-node" }
}

extension QEMUMonitor {
    /// Plugs in a disk that is served on a socket. The VM talks to the server before this returns. On failure nothing
    /// of it stays in the VM.
    public func plugServed(_ disk: PluggedDisk, socket: FilePath, packed: Bool) throws(ImageError) {
        // In milliseconds since 9.2, which deprecates seconds.
        let inMilliseconds = version >= (9, 2)
        try execute(
            "chardev-add",
            [
                "id": .string(disk.chardev),
                "backend": .object([
                    "type": .string("socket"),
                    "data": .object([
                        "addr": .object([
                            "type": .string("unix"), "data": .object(["path": try sendable(socket)]),
                        ]),
                        "server": .bool(false),
                        inMilliseconds ? "reconnect-ms" : "reconnect": .number(inMilliseconds ? 100 : 1),
                    ]),
                ]),
            ])
        do throws(ImageError) {
            var options = device(disk, "vhost-user-blk-pci")
            options["chardev"] = .string(disk.chardev)
            if packed { options["packed"] = .bool(true) }
            try execute("device_add", options, timeout: 60_000)
        } catch {
            try removeBehind(disk.id, after: error)
        }
    }

    /// Plugs in a block device of the host. On failure nothing of it stays in the VM.
    public func plugDevice(
        _ disk: PluggedDisk, path device: FilePath, readOnly: Bool, serial: String
    ) throws(ImageError) {
        try execute(
            "blockdev-add",
            [
                "driver": .string("host_device"), "node-name": .string(disk.node), "filename": try sendable(device),
                "read-only": .bool(readOnly), "cache": .object(["direct": .bool(true)]), "aio": .string("native"),
                "discard": .string("unmap"),
            ])
        do throws(ImageError) {
            var options = self.device(disk, "virtio-blk-pci")
            options["drive"] = .string(disk.node)
            options["serial"] = .string(serial)
            try execute("device_add", options)
        } catch {
            try removeBehind(disk.id, after: error)
        }
    }

    /// A path in QMP, which is JSON: one that is not UTF-8 cannot be said there.
    private func sendable(_ path: FilePath) throws(ImageError) -> JSONValue {
        guard let text = path.name.text else {
            throw ImageError(
                .unsupported, "QEMU cannot be told a name that is not UTF-8", advice: "name it by a link that is",
                path: path)
        }
        return .string(text)
    }

    private func device(_ disk: PluggedDisk, _ driver: String) -> [String: JSONValue] {
        [
            "driver": .string(driver), "id": .string(disk.id), "bus": .string(disk.bus),
            "num-queues": .number(disk.queues),
        ]
    }

    private func removeBehind(_ id: String, after error: ImageError) throws(ImageError) -> Never {
        do throws(ImageError) { try removeBehind(id) } catch {
            // The first error says more; what stays is found by the next attach or detach.
        }
        throw error
    }

    /// Removes what stands behind a device that is no longer there. What is not there is no error.
    public func removeBehind(_ id: String) throws(ImageError) {
        let disk = PluggedDisk(id: id, bus: "", queues: 0)
        let chardevs = try execute("query-chardev").array ?? []
        if chardevs.contains(where: { $0["label"]?.string == disk.chardev }) {
            try execute("chardev-remove", ["id": .string(disk.chardev)])
        }
        let nodes = try execute("query-named-block-nodes", ["flat": .bool(true)]).array ?? []
        if nodes.contains(where: { $0["node-name"]?.string == disk.node }) {
            try execute("blockdev-del", ["node-name": .string(disk.node)])
        }
    }

    /// Takes a device out of the VM and waits, `timeout` milliseconds at most, until the guest has let go of it.
    public func unplug(_ id: String, timeout: Int64) throws(ImageError) {
        do throws(ImageError) {
            try execute("device_del", ["id": .string(id)])
        } catch {
            // The guest was asked before and may let go any time.
            guard error.what.contains("already in the process of unplug") else { throw error }
        }
        let end = try event(timeout: timeout) { event in
            ["DEVICE_DELETED", "DEVICE_UNPLUG_GUEST_ERROR"].contains(event.name) && event.data["device"]?.string == id
        }
        if end == nil, let status = try pausedStatus(), try hasDevice(id) {
            throw ImageError(
                .locked, "the VM does not run (\(status)): its guest cannot let go of the disk",
                advice: "let the VM run (QMP: cont), then detach it again", path: FileName(id))
        }
        let advice = "see that nothing in the guest uses the disk, then detach it again"
        switch end?.name {
        case "DEVICE_DELETED"?: return
        case nil where try !hasDevice(id): return
        case nil:
            throw ImageError(
                .locked, "the guest did not let go of the disk within \(timeout / 1000) s", advice: advice,
                path: FileName(id))
        default:
            throw ImageError(.locked, "the guest refuses to let go of the disk", advice: advice, path: FileName(id))
        }
    }
}
