// A machine that moves to another QEMU can lean on nothing of this host but its disk. It has its program in memory
// and talks over a serial line, of which each QEMU has an end.

import Foundation
import Synchronization

/// A guest that lives in its memory, and the QEMU that it is in now. Ends with its last reference, if not before.
public final class MovableMachine {
    /// Sectors of 512 bytes are not worth a guest: blocks of this many bytes are what it writes.
    public static let blockBytes = 65536
    /// Blocks of each writer, side by side.
    public static let blocks = 32
    public static let writers = 4

    private let folder: String
    private let initrd: String
    private let kernel: String
    private let memory = 256
    private let packed: Bool
    private var running: RunningCommand
    private var line: UnixSocket
    private var monitor: TestMonitor
    private var moves = 0

    /// Writers that write their part of the disk, read it back and compare, round after round, until a line is sent;
    /// then each says which round was its last.
    private static let program = """
        stty -F /dev/ttyS0 -echo
        part() { yes "writer $1 round $2" | head -c \(blocks * blockBytes); }
        writer() {
            n=0
            until test -e /stop; do
                n=$((n + 1))
                part $1 $n | dd of=/dev/vda bs=\(blockBytes) seek=$(($1 * \(blocks))) iflag=fullblock oflag=direct \
        2>/dev/null || echo "BAD write $1 $n"
                dd if=/dev/vda bs=\(blockBytes) skip=$(($1 * \(blocks))) count=\(blocks) iflag=direct \
        2>/dev/null >/back$1
                part $1 $n | cmp -s - /back$1 && echo "ok $1 $n" || echo "BAD read $1 $n"
            done
            echo "last $1 $n"
        }
        for i in \((0..<writers).map(String.init).joined(separator: " ")); do writer $i & done
        read stop
        touch /stop
        wait
        poweroff -f
        """

    /// What a writer's part holds after a round.
    public static func part(of writer: Int, round: Int) -> [UInt8] {
        let line = Array("writer \(writer) round \(round)\n".utf8)
        let bytes = (0...blocks * blockBytes / line.count).flatMap { _ in line }
        return Array(bytes.prefix(blocks * blockBytes))
    }

    /// Boots, with the disk that `socket` serves.
    public init(disk socket: String, packed: Bool = false, in folder: String) throws {
        self.folder = folder
        self.packed = packed
        initrd = "\(folder)/initrd"
        let program = "\(folder)/program"
        try Self.program.write(toFile: program, atomically: true, encoding: .utf8)
        kernel = try Command([GuestMachine.run.replacingOccurrences(of: "/run", with: "/initrd"), initrd, program])
            .succeed().output.trimmingCharacters(in: .whitespacesAndNewlines)
        (running, line, monitor) = try Self.start(
            Self.words(kernel, initrd, memory, socket, packed, "\(folder)/vm0", []), "\(folder)/vm0")
    }

    deinit { running.end() }

    private static func words(
        _ kernel: String, _ initrd: String, _ memory: Int, _ disk: String, _ packed: Bool, _ name: String,
        _ more: [String]
    ) -> [String] {
        let kernelWords =
            "console=ttyS0 quiet panic=-1 mitigations=off nokaslr tsc=nowatchdog clocksource=tsc nmi_watchdog=0 "
            + "no_timer_check lpj=4000000 cryptomgr.notests random.trust_cpu=on"
        return [
            "qemu-system-x86_64", "-M", "pc,hpet=off,usb=off,vmport=off,memory-backend=memory",
            "-accel", "tcg,thread=multi", "-cpu", "max,la57=off", "-m", "\(memory)", "-smp", "2",
            "-object", "memory-backend-memfd,id=memory,size=\(memory)M,share=on",
            "-nodefaults", "-no-user-config", "-display", "none", "-no-reboot",
            "-kernel", kernel, "-initrd", initrd, "-append", kernelWords,
            "-chardev", "socket,id=disk,path=\(disk),reconnect-ms=100",
            "-device", "vhost-user-blk-pci,chardev=disk,num-queues=2,packed=\(packed ? "on" : "off")",
            "-serial", "unix:\(name).tty,server=on,wait=off", "-qmp", "unix:\(name).qmp,server=on,wait=off",
        ] + more
    }

    private static func start(
        _ words: [String], _ name: String
    ) throws -> (RunningCommand, UnixSocket, TestMonitor) {
        var running = try Command(words).spawn()
        do {
            return (running, try UnixSocket("\(name).tty"), try TestMonitor("\(name).qmp"))
        } catch {
            throw TestFailure("\(error): \(running.end())")
        }
    }

    /// The next line of the guest.
    public func says(deadline: Double = 120) throws -> String {
        try line.line(deadline: deadline).trimmingCharacters(in: .whitespacesAndNewlines)
    }

    /// Waits until the guest has been silent for `seconds`: each of its writers waits for its disk.
    public func awaitSilence(_ seconds: Double = 3) throws {
        for _ in 0..<1000 {
            do { _ = try says(deadline: seconds) } catch { return }
        }
        throw TestFailure("the guest goes on")
    }

    /// Moves it, running, to a new QEMU whose disk `socket` serves. Gives for how many milliseconds it stood still.
    @discardableResult public func move(to socket: String) throws -> Int {
        moves += 1
        let name = "\(folder)/vm\(moves)"
        let way = "unix:\(folder)/way\(moves)"
        let next = try Self.start(
            Self.words(kernel, initrd, memory, socket, packed, name, ["-incoming", way]), name)
        try monitor.execute("migrate", "{\"uri\":\"\(way)\"}")
        let end = now() + 120
        var downtime = 0
        while true {
            let answer = try monitor.execute("query-migrate")
            let status = answer["status"]?.string ?? ""
            if status == "completed" {
                downtime = answer["downtime"]?.integer.map { Int($0) } ?? 0
                break
            }
            guard status != "failed", now() < end else {
                var lost = next.0
                throw TestFailure("the migration: \(status): \(lost.end())")
            }
            usleep(100_000)
        }
        running.end()
        (running, line, monitor) = next
        return downtime
    }

    /// Asks the writers to end; the last round of each. Throws what went wrong in the guest.
    public func finish() throws -> [Int] {
        try line.send("\n")
        var last: [Int: Int] = [:]
        while last.count < Self.writers {
            let words = try says().split(separator: " ")
            guard words.first != "BAD" else { throw TestFailure("in the guest: \(words)") }
            if words.count == 3, words[0] == "last", let writer = Int(words[1]) { last[writer] = Int(words[2]) }
        }
        _ = running.wait(deadline: running.age + 60)
        return (0..<Self.writers).compactMap { last[$0] }
    }
}
