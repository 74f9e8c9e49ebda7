// Why this file exists: `qblk doctor`: why a map is made the way it is on this machine, and what would make it better.

import ArgumentParser
import DeviceMapperMap
import DiskTypes
import Glibc
import ImageOperations
import LinuxIO
import SystemPackage

struct DoctorCommand: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "doctor",
        abstract: "Says what this kernel offers, and what map would choose.",
        discussion: """
            Changes nothing. Exit code 0 when images can be mapped here, 1 when not.

            Example:
              sudo qblk doctor
            """)

    @OptionGroup var output: OutputOptions

    @Flag(name: .short, help: "Say more on standard error. Repeatable.")
    var verbose: Int

    func run() throws {
        let checkup = Checkup()
        if output.isJSON {
            try Output.write(checkup.json.text + "\n")
        } else {
            let rows = checkup.findings.map { [$0.name, $0.isThere ? "yes" : "no", $0.note] }
            try Output.write(Columns.text(rows) + "\n" + checkup.verdict.joined(separator: "\n") + "\n")
        }
        if !checkup.canMap { throw Failure(code: 1) }
    }
}

/// What was found on this machine.
private struct Checkup {
    struct Finding {
        let key: String
        let name: String
        let isThere: Bool
        let note: String
    }

    let findings: [Finding]
    let dm: DMDoctor
    private let loop: Bool

    var canMap: Bool { dm.canMap || loop }

    init() {
        dm = DMDoctor()
        let fuse = Self.opens("/dev/fuse")
        let loopControl = Self.opens("/dev/loop-control")
        let ring = (try? Ring(entries: 8)) != nil
        loop = fuse && loopControl && ring
        let targets = dm.capability.map { capability in
            DeviceMapper.neededTargets.compactMap { name in capability.targets[name].map { "\(name) \($0)" } }
        }
        func node(_ key: String, _ name: String, _ path: String, _ note: String) -> Finding {
            Finding(key: key, name: name, isThere: Self.exists(path), note: note)
        }
        findings = [
            Finding(
                key: "device-mapper", name: "device-mapper", isThere: dm.canMap,
                note: dm.canMap ? (targets ?? []).joined(separator: ", ") : dm.reason ?? dm.advice ?? ""),
            Finding(key: "fuse", name: "FUSE", isThere: fuse, note: fuse ? "" : "/dev/fuse cannot be opened"),
            Finding(
                key: "fuse-resend", name: "FUSE resend", isThere: Self.kernel >= (6, 9),
                note: "a killed server costs a pause, not an error (kernel 6.9)"),
            Finding(
                key: "loop", name: "loop devices", isThere: loopControl,
                note: loopControl ? "" : "/dev/loop-control cannot be opened"),
            Finding(
                key: "io-uring", name: "io_uring", isThere: ring,
                note: ring ? "" : "look at /proc/sys/kernel/io_uring_disabled"),
            node("ublk", "ublk", "/dev/ublk-control", "not used by this version"),
            node(
                "vhost-scsi", "vhost-scsi", "/dev/vhost-scsi", "gives guests a mapped device without QEMU's block layer"
            ),
            node("vduse", "VDUSE", "/dev/vduse/control", "not used by this version"),
        ]
    }

    /// What `map --via auto` does here, and how to have it better.
    var verdict: [String] {
        guard canMap else {
            var lines = ["Images cannot be mapped here."]
            if geteuid() != 0 { lines.append("Mapping needs root: run this again with sudo.") }
            if let advice = dm.advice { lines.append("For device-mapper: \(advice).") }
            lines.append("For loop devices: modprobe fuse loop, and a kernel with io_uring.")
            return lines
        }
        guard dm.canMap else {
            return [
                "map uses a loop device on a FUSE file.",
                "For kernel speed on images without compressed clusters: \(dm.advice ?? "a kernel with device-mapper").",
            ]
        }
        guard loop else { return ["map uses device-mapper; compressed images need FUSE, loop and io_uring as well."] }
        return [
            "map uses device-mapper where the image allows it (no compressed clusters), else a loop device on a FUSE file."
        ]
    }

    var json: JSONValue {
        .object(
            findings.map { .init(key: $0.key, value: .bool($0.isThere)) } + [
                .init(key: "kernel", value: .string(Self.release)),
                .init(key: "libdevmapper", value: .string(dm.library)),
                .init(key: "map", value: canMap ? .string(dm.canMap ? "dm" : "loop") : .null),
                .init(key: "verdict", value: .strings(verdict)),
            ])
    }

    private static func exists(_ path: String) -> Bool { access(path, F_OK) == 0 }

    private static func opens(_ path: String) -> Bool {
        let fd = Glibc.open(path, O_RDWR | O_CLOEXEC)
        guard fd >= 0 else { return false }
        close(fd)
        return true
    }

    private static let release: String = {
        var name = utsname()
        guard uname(&name) == 0 else { return "" }
        return withUnsafeBytes(of: name.release) { String(decoding: $0.prefix { $0 != 0 }, as: UTF8.self) }
    }()

    private static let kernel: (Int, Int) = {
        let numbers = release.split(whereSeparator: { !$0.isNumber }).prefix(2).map { Int($0) ?? 0 }
        return (numbers.first ?? 0, numbers.count > 1 ? numbers[1] : 0)
    }()
}
