// Most of what can go wrong with plugging in goes wrong in QEMU and needs no guest. A machine that never runs starts
// in a moment.

import Foundation
import Synchronization

/// A QEMU that is stopped before its first instruction.
public final class PausedMachine: Sendable {
    public let qmp: String
    private let running: Mutex<RunningCommand?>

    public static let missing = Tools.have("qemu-system-x86_64") ? nil : "needs qemu-system-x86_64"

    public init(
        in folder: String, machine: String = "q35", ports: Int = 2, sharedMemory: Bool = true, name: String = "vm",
        options: [String] = []
    ) throws {
        qmp = "\(folder)/\(name).qmp"
        var words = [
            "qemu-system-x86_64", "-M", machine, "-accel", "tcg", "-m", "64M", "-nodefaults", "-no-user-config",
            "-display", "none", "-S", "-qmp", "unix:\(qmp),server=on,wait=off",
        ]
        if sharedMemory {
            words += ["-object", "memory-backend-memfd,id=mem,size=64M,share=on", "-machine", "memory-backend=mem"]
        }
        for port in 0..<ports {
            words += ["-device", "pcie-root-port,id=port\(port),chassis=\(port + 1),slot=\(port + 1)"]
        }
        var process = try Command(words + options).spawn()
        do { _ = try TestMonitor(qmp) } catch {
            throw TestFailure("\(error): \(process.end())")
        }
        running = Mutex(process)
    }

    deinit { end() }

    public func monitor() throws -> TestMonitor { try TestMonitor(qmp) }

    /// What the machine has for its disks: character devices and named block nodes, without the monitor's own.
    public func holdings() throws -> [String] {
        let monitor = try monitor()
        let chardevs = try monitor.execute("query-chardev").array ?? []
        let nodes = try monitor.execute("query-named-block-nodes", "{\"flat\":true}").array ?? []
        let devices = try monitor.execute("qom-list", "{\"path\":\"/machine/peripheral\"}").array ?? []
        let names =
            chardevs.compactMap { $0["label"]?.string } + nodes.compactMap { $0["node-name"]?.string }
            + devices.compactMap { $0["name"]?.string }
        return names.filter { $0 != "type" && !$0.hasPrefix("compat_monitor") && !$0.hasPrefix("port") }.sorted()
    }

    public func end() {
        running.withLock { process in
            process?.end()
            process = nil
        }
    }
}
