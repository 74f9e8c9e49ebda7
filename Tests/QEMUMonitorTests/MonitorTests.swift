// A monitor may be busy, gone, confused, or no monitor at all; the user who plugs a disk in must hear which, in one
// line, and never wait without end.

import DiskTypes
import QEMUMonitor
import TestKit
import Testing
import SystemPackage

@Suite(.timeLimit(.minutes(20))) struct MonitorTests {
    private func polite(_ command: String, _ id: Int64) -> [String]? { [FakeQEMU.result(id)] }

    private func trouble(_ body: () throws(ImageError) -> Void) -> ImageError? {
        do throws(ImageError) { try body() } catch { return error }
        return nil
    }

    @Test func theVersionIsTheGreetings() throws {
        let fake = try FakeQEMU(answer: polite)
        let monitor = try QEMUMonitor(FilePath(fake.path))
        #expect(monitor.version == (10, 0))
        #expect(fake.commands == ["qmp_capabilities"])
    }

    @Test func nobodyListens() throws {
        let path = try Scratch.newFolder("none") + "/qmp"
        let error = trouble { () throws(ImageError) in _ = try QEMUMonitor(FilePath(path)) }
        #expect(error?.kind == .notFound)
        #expect(error?.description.contains("-qmp unix:\(path),server=on,wait=off") == true)
        #expect(QEMUMonitor.isGone(FilePath(path)))
    }

    @Test func aMonitorWithAClientSaysSo() throws {
        let fake = try FakeQEMU(greeting: nil, answer: polite)
        let error = trouble { () throws(ImageError) in _ = try QEMUMonitor(FilePath(fake.path), timeout: 200) }
        #expect(error?.kind == .locked)
        #expect(error?.what.contains("another program has this monitor") == true)
        #expect(!QEMUMonitor.isGone(FilePath(fake.path)))
    }

    @Test(arguments: ["SSH-2.0-OpenSSH_9", "{}", "{\"QMP\":", "[1]", "\u{0}\u{1}\u{ff}"])
    func whatIsNoMonitorSaysSo(greeting: String) throws {
        let fake = try FakeQEMU(greeting: greeting, answer: polite)
        let error = trouble { () throws(ImageError) in _ = try QEMUMonitor(FilePath(fake.path)) }
        #expect(error?.what == "what listens there is no QMP monitor")
    }

    @Test func aPathTooLongIsRefused() {
        let path = "/tmp/" + String(repeating: "x", count: 200)
        let error = trouble { () throws(ImageError) in _ = try QEMUMonitor(FilePath(path)) }
        #expect(error?.what.contains("107 bytes") == true, "\(String(describing: error))")
    }

    @Test func errorsHaveQEMUsWords() throws {
        let fake = try FakeQEMU { command, id in
            [command == "qmp_capabilities" ? FakeQEMU.result(id) : FakeQEMU.error(id, "Bus 'x' is \\u001b[31mfull")]
        }
        let monitor = try QEMUMonitor(FilePath(fake.path))
        let error = trouble { () throws(ImageError) in _ = try monitor.execute("device_add") }
        #expect(error?.what == "QEMU refuses device_add: Bus 'x' is \\x1b[31mfull")
        #expect(error?.path == FileName(fake.path))
    }

    @Test func answersToOthersAndEventsAreNotTheAnswer() throws {
        let fake = try FakeQEMU { command, id in
            let event = #"{"event":"DEVICE_DELETED","data":{"device":"d","path":"/x"},"timestamp":{}}"#
            let late = FakeQEMU.result(id + 100, "\"wrong\"")
            return [event, late, FakeQEMU.result(id, "\"right\"")]
        }
        let monitor = try QEMUMonitor(FilePath(fake.path))
        #expect(try monitor.execute("query-name").string == "right")
        let event = try monitor.event(timeout: 0) { $0.data["device"]?.string == "d" }
        #expect(event?.name == "DEVICE_DELETED")
    }

    @Test func aConnectionThatEndsIsAnError() throws {
        let fake = try FakeQEMU { command, id in command == "qmp_capabilities" ? [FakeQEMU.result(id)] : nil }
        let monitor = try QEMUMonitor(FilePath(fake.path))
        let error = trouble { () throws(ImageError) in _ = try monitor.execute("query-pci") }
        #expect(error?.what == "QEMU closed the connection during query-pci")
    }

    @Test func aCommandWithoutAnswerHasAnEnd() throws {
        let fake = try FakeQEMU { command, id in command == "qmp_capabilities" ? [FakeQEMU.result(id)] : [] }
        let monitor = try QEMUMonitor(FilePath(fake.path))
        let error = trouble { () throws(ImageError) in _ = try monitor.execute("query-pci", timeout: 200) }
        #expect(error?.what == "QEMU does not answer to query-pci")
    }

    @Test func aLineWithoutEndHasALimit() throws {
        let fake = try FakeQEMU { command, id in
            command == "qmp_capabilities"
                ? [FakeQEMU.result(id)] : ["\"" + String(repeating: "x", count: 20 << 20) + "\""]
        }
        let monitor = try QEMUMonitor(FilePath(fake.path))
        #expect(throws: ImageError.self) { try monitor.execute("query-pci") }
    }
}
