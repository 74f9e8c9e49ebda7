// Whether a VM can take a disk is read off its answers; each kind of VM that cannot must be told apart and told what
// to do.

import DiskTypes
import QEMUMonitor
import TestKit
import Testing
import SystemPackage

@Suite(.timeLimit(.minutes(20))) struct MachineTests {
    /// A machine of these answers: by command, or by `qom-get`/`qom-list` (in this order) for questions about objects.
    private func monitor(_ answers: [String: String], objects: [String] = []) throws -> QEMUMonitor {
        let fake = try FakeQEMU { [queue = Queue(objects)] command, id in
            if command == "qmp_capabilities" { return [FakeQEMU.result(id)] }
            if command.hasPrefix("qom-") { return [FakeQEMU.result(id, queue.next() ?? "[]")] }
            return [FakeQEMU.result(id, answers[command] ?? "[]")]
        }
        return try QEMUMonitor(FilePath(fake.path))
    }

    private func refusal(_ body: () throws(ImageError) -> Void) -> String? {
        do throws(ImageError) { try body() } catch { return error.description }
        return nil
    }

    @Test(arguments: [
        (#"[{"id":"mem","share":true}]"#, ["\"memory-backend-memfd\""], true),
        (#"[{"id":"mem","share":true}]"#, ["\"memory-backend-file\""], true),
        (#"[{"id":"mem","share":true}]"#, ["\"memory-backend-ram\""], true),
        (#"[{"id":"mem","share":false}]"#, ["\"memory-backend-memfd\""], false),
        (#"[{"id":"pc.ram","share":false}]"#, ["\"memory-backend-ram\""], false),
        ("[]", [], false),
        (
            #"[{"id":"a","share":true},{"id":"b","share":false}]"#,
            ["\"memory-backend-memfd\"", "\"memory-backend-memfd\""], false
        ),
    ])
    func sharedMemory(memdevs: String, types: [String], isShared: Bool) throws {
        let monitor = try monitor(["query-memdev": memdevs], objects: types)
        let said = refusal { () throws(ImageError) in try monitor.requireSharedMemory() }
        #expect((said == nil) == isShared, "\(said ?? "")")
        if let said { #expect(said.contains("memory-backend-memfd,id=mem,size=SIZE,share=on"), "\(said)") }
    }

    static let port = #"{"name":"port0","type":"child<pcie-root-port>"}"#
    static let hotplug = #"[{"name":"hotplug","type":"bool"}]"#

    @Test(arguments: [
        (["[\(port)]", hotplug, "true", "[]"], "port0"),
        (["[\(port)]", hotplug, "true", #"[{"name":"child[0]","type":"link<e1000e>"}]"#, "[]"], nil),
        (["[\(port)]", hotplug, "false", "[]"], nil),
        (["[]", #"[{"name":"type","type":"string"}]"#, "\"pc-i440fx-10.0-machine\""], "pci.0"),
        (["[]", #"[{"name":"type","type":"string"}]"#, "\"pc-q35-10.0-machine\""], nil),
        (["[]", #"[{"name":"type","type":"string"}]"#, "\"microvm-machine\""], nil),
    ])
    func buses(objects: [String], bus: String?) throws {
        let monitor = try monitor([:], objects: objects)
        var found: String?
        let said = refusal { () throws(ImageError) in found = try monitor.busForOneMore(nil) }
        #expect(found == bus, "\(said ?? "")")
        if let said { #expect(said.contains("-device pcie-root-port,id="), "\(said)") }
    }

    @Test(arguments: ["", "0disk", "a b", "a/b", "ä", "a,b", String(repeating: "a", count: 25)])
    func idsThatAreNone(id: String) {
        #expect(refusal { () throws(ImageError) in try PluggedDisk.check(id) } != nil)
    }

    @Test(arguments: ["a", "qblk0", "A-b.c_9", String(repeating: "a", count: 24)])
    func idsThatAre(id: String) {
        #expect(refusal { () throws(ImageError) in try PluggedDisk.check(id) } == nil)
    }
}
