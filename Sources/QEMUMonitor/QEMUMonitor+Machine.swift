// Whether a VM can take a disk while it runs is a matter of how it was started. Each thing that may be wrong is said
// before anything is changed, with the words that start it right.
public import DiskTypes

extension QEMUMonitor {
    /// Whether the VM has a device of this id.
    public func hasDevice(_ id: String) throws(ImageError) -> Bool {
        try members(of: "/machine/peripheral").contains { $0.name == id }
    }

    /// Why the guest does not run, in QEMU's word for its state ("paused", "prelaunch", ...); nil while it runs.
    public func pausedStatus() throws(ImageError) -> String? {
        let answer = try execute("query-status")
        guard answer["running"]?.bool == false else { return nil }
        return printable(answer["status"]?.string ?? "stopped")
    }

    /// How many virtual processors it has now.
    public func processors() throws(ImageError) -> Int {
        try execute("query-cpus-fast").array?.count ?? 1
    }

    /// Refuses a VM whose memory another process cannot see. Private memory would not be an error of QEMU's: the disk's
    /// server would read something else than the guest wrote.
    public func requireSharedMemory() throws(ImageError) {
        let advice =
            "start the VM with -object memory-backend-memfd,id=mem,size=SIZE,share=on -machine memory-backend=mem, SIZE as in -m"
        let backends = try execute("query-memdev").array ?? []
        guard !backends.isEmpty else {
            throw ImageError(.unsupported, "this VM's memory is not shared", advice: advice, path: path)
        }
        for backend in backends {
            let id = backend["id"]?.string ?? ""
            let type = try backendType(id)
            let hasFile = ["memory-backend-memfd", "memory-backend-file", "memory-backend-shm"].contains(type)
            // Since QEMU 10 this one has a file, too, if it is shared.
            let hasFileLately = type == "memory-backend-ram" && version.major >= 10
            guard backend["share"]?.bool == true, hasFile || hasFileLately || type.isEmpty else {
                throw ImageError(
                    .unsupported, "this VM's memory '\(printable(id))' is not shared", advice: advice, path: path)
            }
        }
    }

    private func backendType(_ id: String) throws(ImageError) -> String {
        guard !id.isEmpty else { return "" }
        return try execute("qom-get", ["path": .string("/objects/\(id)"), "property": .string("type")]).string ?? ""
    }

    /// A bus that takes one more device while the VM runs. A bus the user named is taken at its word.
    public func busForOneMore(_ wanted: String?) throws(ImageError) -> String {
        if let wanted { return wanted }
        var ports = 0
        for port in try members(of: "/machine/peripheral") where isPort(port.type) {
            ports += 1
            // The port's bus is its child of the same name, and what is plugged in is the bus's "child[0]".
            let path = "/machine/peripheral/\(port.name)"
            guard try property("hotplug", of: path)?.bool != false else { continue }
            let plugged = try members(of: "\(path)/\(port.name)").contains { $0.name.hasPrefix("child[") }
            if !plugged { return port.name }
        }
        let machine = try property("type", of: "/machine")?.string ?? ""
        // The machine `pc` takes devices on its only bus.
        if machine.hasPrefix("pc-i440fx") || machine.hasPrefix("xenfv") { return "pci.0" }
        let advice = "start the VM with -device pcie-root-port,id=port\(ports),chassis=\(ports + 1),slot=\(ports + 1)"
        throw ImageError(
            .unsupported,
            ports == 0
                ? "this VM has no port to plug a device into" : "all \(ports) ports of this VM are in use",
            advice: advice + ", one for each device to come, or name a bus with --bus", path: path)
    }

    private func isPort(_ type: String) -> Bool {
        ["pcie-root-port", "ioh3420", "xio3130-downstream"].contains { type == "child<\($0)>" }
    }

    private func members(of path: String) throws(ImageError) -> [(name: String, type: String)] {
        let list = try execute("qom-list", ["path": .string(path)]).array ?? []
        return list.map { ($0["name"]?.string ?? "", $0["type"]?.string ?? "") }
    }

    /// nil when the object has no such property.
    private func property(_ name: String, of path: String) throws(ImageError) -> JSONValue? {
        guard try members(of: path).contains(where: { $0.name == name }) else { return nil }
        return try execute("qom-get", ["path": .string(path), "property": .string(name)])
    }
}
