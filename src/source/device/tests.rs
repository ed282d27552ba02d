use super::super::inventory::{DeviceKey, Devices, ExtendedClaim, Identity, PodClaim, Slice, SliceScope};
use super::*;

const DRIVER: &str = "nic.example";

fn key(name: &str) -> DeviceKey {
    DeviceKey { driver: DRIVER.into(), pool: "node-1".into(), name: name.into() }
}

fn grant(request: &str, name: &str) -> Grant {
    Grant { request: Some(request.into()), key: key(name), share: None }
}

fn identity(id: &str, resource: &str) -> Identity {
    let some = |text: &str| (!text.is_empty()).then(|| text.to_owned());
    Identity { id: some(id), resource: some(resource) }
}

fn slice(generation: i64, devices: &[(&str, Identity)]) -> Slice {
    let devices = devices.iter().map(|(name, identity)| ((*name).to_owned(), identity.clone())).collect();
    Slice { pool: "node-1".into(), generation, devices }
}

/// A pod with these claims, each with a `ResourceClaim` called `web-NAME`.
fn pod(claims: &[&str]) -> PodClaims {
    let claim = |name: &&str| PodClaim { name: (*name).into(), object: ClaimObject::Named(format!("web-{name}")) };
    PodClaims { node: "node-1".into(), claims: claims.iter().map(claim).collect(), extended: None }
}

fn of_resource(origin: &str, resource: &str) -> Demand {
    Demand { origin: origin.into(), resource: Some(resource.into()), ..Demand::default() }
}

fn of_claim(origin: &str, claim: &str, request: Option<&str>) -> Demand {
    let claim = ClaimRequest { claim: claim.into(), request: request.map(str::to_owned) };
    Demand { origin: origin.into(), claim: Some(claim), ..Demand::default() }
}

/// The IDs of the devices, or the errors, by origin.
fn ids(inventory: &Inventory, demands: &[Demand]) -> Vec<String> {
    let assignments = inventory.assign(demands).unwrap();
    let show =
        |outcome: Result<Device, DeviceError>| outcome.map_or_else(|error| error.to_string(), |device| device.id);
    assignments.into_values().map(show).collect()
}

fn plugin(resource: &str, ids: &[&str]) -> Devices {
    [(resource.to_owned(), ids.iter().map(|id| (*id).to_owned()).collect())].into()
}

/// A pod with one claim, about which everything is known.
fn known(grants: Vec<Grant>, devices: &[(&str, Identity)]) -> Inventory {
    let mut inventory = Inventory::new(Devices::new(), []);
    inventory.add_claims_of_pod(pod(&["nics"]));
    inventory.add_grants("web-nics", Some(grants));
    inventory.add_metadata("web-nics", DRIVER, Vec::new());
    inventory.add_slices(DRIVER, SliceScope::Node, vec![slice(1, devices)]);
    inventory.add_slices(DRIVER, SliceScope::Unbound, Vec::new());
    inventory
}

#[test]
fn each_device_of_a_plugin_is_given_once_and_kept_for_who_asks_for_it() {
    let inventory = Inventory::new(plugin("r", &["a", "b", "c"]), []);
    let asks = Demand { device_id: Some("a".into()), ..of_resource("3", "r") };
    let demands = [of_resource("1", "r"), of_resource("2", "r"), asks.clone()];
    assert_eq!(ids(&inventory, &demands), ["b", "c", "a"]);
    // Before reporting that there are too few, the pod is read for claims.
    let more = [of_resource("0", "r"), of_resource("1", "r"), of_resource("2", "r"), asks];
    assert_eq!(inventory.assign(&more).unwrap_err(), Question::Pod);
}

#[test]
fn too_few_devices_are_an_error_that_names_the_resource() {
    let mut inventory = Inventory::new(plugin("r", &["a"]), []);
    inventory.add_claims_of_pod(pod(&[]));
    let twice = |id: &str| Demand { device_id: Some("a".into()), ..of_resource(id, "r") };
    let assignments = inventory.assign(&[of_resource("1", "r"), of_resource("2", "r"), of_resource("3", "s")]).unwrap();
    let taken = DeviceError::Taken { resource: "r".into(), had: 1, found: String::new() };
    assert_eq!(assignments["2"], Err(taken));
    assert_eq!(assignments["3"], Err(DeviceError::None { resource: "s".into(), found: String::new() }));
    let assignments = inventory.assign(&[twice("1"), twice("2")]).unwrap();
    assert!(matches!(assignments["2"], Err(DeviceError::NotTheirs { .. })));
}

#[test]
fn the_cheapest_source_is_asked_first_and_none_is_asked_needlessly() {
    let prepared = [("web-nics".to_owned(), key("a"))];
    let mut inventory = Inventory::new(Devices::new(), prepared);
    let demands = [of_claim("1", "nics", Some("fast"))];
    assert_eq!(inventory.assign(&demands).unwrap_err(), Question::Pod);
    inventory.add_claims_of_pod(pod(&["gpus", "nics"]));
    let metadata = Question::Metadata { claim: "web-nics".into(), driver: DRIVER.into() };
    assert_eq!(inventory.assign(&demands).unwrap_err(), metadata);
    let mut by_file = inventory;
    by_file.add_metadata("web-nics", DRIVER, vec![("fast".into(), key("a"), identity("0000:01:00.1", ""))]);
    assert_eq!(ids(&by_file, &demands), ["0000:01:00.1"]);

    let mut inventory = Inventory::new(Devices::new(), [("web-nics".to_owned(), key("a"))]);
    inventory.add_claims_of_pod(pod(&["gpus", "nics"]));
    inventory.add_metadata("web-nics", DRIVER, Vec::new());
    assert_eq!(inventory.assign(&demands).unwrap_err(), Question::Claim("web-nics".into()));
    inventory.add_grants("web-nics", Some(vec![grant("fast", "a")]));
    let slices = |scope| Question::Slices { driver: DRIVER.into(), scope };
    assert_eq!(inventory.assign(&demands).unwrap_err(), slices(SliceScope::Node));
    inventory.add_slices(DRIVER, SliceScope::Node, vec![slice(1, &[("b", identity("0000:01:00.2", ""))])]);
    assert_eq!(inventory.assign(&demands).unwrap_err(), slices(SliceScope::Unbound));
    inventory.add_slices(DRIVER, SliceScope::Unbound, vec![slice(1, &[("a", identity("0000:01:00.1", ""))])]);
    assert_eq!(ids(&inventory, &demands), ["0000:01:00.1"]);
}

#[test]
fn a_claim_that_the_kubelet_knows_in_part_is_read_before_a_device_is_missed() {
    let mut inventory = Inventory::new(Devices::new(), [("web-nics".to_owned(), key("gpu"))]);
    inventory.add_claims_of_pod(pod(&["nics"]));
    inventory.add_metadata("web-nics", DRIVER, Vec::new());
    let devices = [("gpu", Identity::default()), ("a", identity("0000:01:00.1", "example/vf"))];
    inventory.add_slices(DRIVER, SliceScope::Node, vec![slice(1, &devices)]);
    inventory.add_slices(DRIVER, SliceScope::Unbound, Vec::new());
    let demands = [of_resource("1", "example/vf")];
    assert_eq!(inventory.assign(&demands).unwrap_err(), Question::Claim("web-nics".into()));
    inventory.add_grants("web-nics", Some(vec![grant("gpu", "gpu"), grant("nic", "a")]));
    let device = inventory.assign(&demands).unwrap()["1"].clone().unwrap();
    assert_eq!((device.id.as_str(), device.resource.as_deref()), ("0000:01:00.1", Some("example/vf")));
    assert_eq!(device.allocated.unwrap().claim, "web-nics");
}

#[test]
fn requests_of_one_claim_go_to_the_attachments_that_name_them() {
    let devices = [("a", identity("A", "r")), ("b", identity("B", "r")), ("c", identity("C", "r"))];
    let grants = vec![grant("one", "a"), grant("two/best", "b"), grant("three", "c")];
    let inventory = known(grants, &devices);
    let demands = [of_resource("1", "r"), of_claim("2", "nics", Some("two")), of_claim("3", "nics", Some("one"))];
    assert_eq!(ids(&inventory, &demands), ["C", "B", "A"]);
    let full = [of_claim("1", "nics", Some("two/best")), of_claim("2", "nics", None), of_claim("3", "nics", None)];
    assert_eq!(ids(&inventory, &full), ["B", "A", "C"]);
}

#[test]
fn an_older_generation_of_a_pool_does_not_count() {
    let mut inventory = known(vec![grant("one", "a")], &[("a", identity("old", ""))]);
    inventory.add_slices(DRIVER, SliceScope::Unbound, vec![slice(3, &[("b", identity("B", ""))])]);
    inventory.add_slices(DRIVER, SliceScope::Unbound, vec![slice(2, &[("a", identity("older", ""))])]);
    let error = ids(&inventory, &[of_claim("1", "nics", Some("one"))]).remove(0);
    for part in ["claim \"nics\", request \"one\"", "web-nics", "nic.example/node-1/a", "in no current ResourceSlice"] {
        assert!(error.contains(part), "{part}: {error}");
    }
}

/// A driver may go over from slices of a node to slices that name none.
#[test]
fn a_newer_generation_without_a_node_wins_over_an_older_one_of_the_node() {
    let mut inventory = Inventory::new(Devices::new(), []);
    inventory.add_claims_of_pod(pod(&["nics"]));
    inventory.add_grants("web-nics", Some(vec![grant("one", "a")]));
    inventory.add_metadata("web-nics", DRIVER, Vec::new());
    inventory.add_slices(DRIVER, SliceScope::Node, vec![slice(1, &[("a", identity("old", ""))])]);
    let demands = [of_claim("1", "nics", Some("one"))];
    let unbound = Question::Slices { driver: DRIVER.into(), scope: SliceScope::Unbound };
    assert_eq!(inventory.assign(&demands).unwrap_err(), unbound);
    inventory.add_slices(DRIVER, SliceScope::Unbound, vec![slice(2, &[("a", identity("new", ""))])]);
    assert_eq!(ids(&inventory, &demands), ["new"]);
}

#[test]
fn claims_come_before_extended_resources_and_these_before_device_plugins() {
    let mut inventory = Inventory::new(plugin("r", &["plugin", "C"]), []);
    let extended =
        ExtendedClaim { object: "web-extended".into(), requests: vec![("r".into(), "container-0-request-0".into())] };
    inventory.add_claims_of_pod(PodClaims { extended: Some(extended), ..pod(&["nics"]) });
    inventory.add_grants("web-nics", Some(vec![grant("nic", "c")]));
    inventory.add_grants(
        "web-extended",
        Some(vec![grant("container-0-request-0", "e"), grant("container-0-request-1", "x")]),
    );
    for claim in ["web-nics", "web-extended"] {
        inventory.add_metadata(claim, DRIVER, Vec::new());
    }
    let devices = [("c", identity("C", "r")), ("e", identity("E", "")), ("x", identity("X", ""))];
    inventory.add_slices(DRIVER, SliceScope::Node, vec![slice(1, &devices)]);
    inventory.add_slices(DRIVER, SliceScope::Unbound, Vec::new());
    let demands = ["1", "2", "3", "4"].map(|origin| of_resource(origin, "r"));
    let shown = ids(&inventory, &demands);
    // Device C of the device plugin is the claim's, and is not assigned a second time.
    assert_eq!(shown[..3], ["C", "E", "plugin"]);
    for part in ["3 devices", "all of them are taken", "request \"nic\": nic.example/node-1/c (C"] {
        assert!(shown[3].contains(part), "{part}: {}", shown[3]);
    }
}

#[test]
fn a_claim_that_is_made_later_may_have_the_device_of_a_resource() {
    let later = PodClaim { name: "later".into(), object: ClaimObject::Pending };
    let mut inventory = Inventory::new(plugin("r", &["P"]), []);
    inventory.add_claims_of_pod(PodClaims { claims: vec![later], ..pod(&[]) });
    let shown = ids(&inventory, &[of_resource("1", "r"), of_resource("2", "r")]);
    assert_eq!(shown[0], "P");
    assert!(shown[1].contains("claim \"later\" of the pod has not been made"), "{}", shown[1]);
}

#[test]
fn a_file_about_what_the_kubelet_does_not_list_is_out_of_date() {
    let mut inventory = Inventory::new(Devices::new(), [("web-nics".to_owned(), key("b"))]);
    inventory.add_claims_of_pod(pod(&["nics"]));
    inventory.add_metadata("web-nics", DRIVER, vec![("nic".into(), key("a"), identity("A", ""))]);
    let demands = [of_claim("1", "nics", Some("nic"))];
    assert_eq!(inventory.assign(&demands).unwrap_err(), Question::Claim("web-nics".into()));
}

#[test]
fn a_shared_device_is_given_as_often_as_it_has_been_shared_out() {
    let share = |request: &str, share: &str| Grant { share: Some(share.into()), ..grant(request, "a") };
    let devices = [("a", identity("A", "r"))];
    let inventory = known(vec![share("one", "s1"), share("two", "s2")], &devices);
    let demands = [of_claim("1", "nics", Some("one")), of_claim("2", "nics", Some("two")), of_resource("3", "r")];
    let shown = ids(&inventory, &demands);
    assert_eq!(shown[..2], ["A", "A"]);
    assert!(shown[2].contains("taken"), "{}", shown[2]);
    let twice = known(vec![grant("one", "a"), grant("two", "a")], &devices);
    assert!(ids(&twice, &demands[..2])[1].contains("all of its devices are taken"));
}

#[test]
fn a_device_of_an_attachment_of_before_goes_to_no_other() {
    let devices = [("a", identity("A", "r")), ("b", identity("B", "r"))];
    let mut inventory = known(vec![grant("one", "a"), grant("one", "b")], &devices);
    inventory.reserve(&HeldDevice { id: "A".into(), allocated: None });
    let shown = ids(&inventory, &[of_claim("1", "nics", Some("one")), of_resource("2", "r")]);
    assert_eq!(shown[0], "B");
    assert!(shown[1].contains("taken"), "{}", shown[1]);
}

#[test]
fn an_attachment_of_before_has_one_share_of_a_device() {
    let share = |request: &str, share: &str| Grant { share: Some(share.into()), ..grant(request, "a") };
    let held = |request: Option<&str>, share: Option<&str>| HeldDevice {
        id: "A".into(),
        allocated: Some(AllocatedDevice {
            claim: "web-nics".into(),
            driver: DRIVER.into(),
            pool: "node-1".into(),
            device: "a".into(),
            request: request.map(str::to_owned),
            share: share.map(str::to_owned),
        }),
    };
    // The claim contains what an older journal does not.
    for device in [held(Some("two"), Some("s2")), held(Some("two"), None), held(None, Some("s2"))] {
        let mut inventory =
            known(vec![share("one", "s1"), share("two", "s2"), share("two", "s3")], &[("a", identity("A", "r"))]);
        inventory.reserve(&device);
        let two = |origin: &str| of_claim(origin, "nics", Some("two"));
        let shown = ids(&inventory, &[of_claim("1", "nics", Some("one")), two("2"), two("3")]);
        assert_eq!(shown[..2], ["A", "A"]);
        assert!(shown[2].contains("taken"), "{}", shown[2]);
    }
    // Until the claim has been read, it is not known whether there is another share.
    let mut inventory = Inventory::new(Devices::new(), [("web-nics".to_owned(), key("a"))]);
    inventory.add_claims_of_pod(pod(&["nics"]));
    inventory.add_metadata("web-nics", DRIVER, vec![("one".into(), key("a"), identity("A", ""))]);
    inventory.reserve(&held(Some("one"), None));
    let demands = [of_claim("1", "nics", None)];
    assert_eq!(inventory.assign(&demands).unwrap_err(), Question::Claim("web-nics".into()));
}

#[test]
fn who_needs_a_certain_device_gets_it_from_who_can_do_with_another() {
    let devices = [("a", identity("A", "r")), ("b", identity("B", "s")), ("c", identity("C", ""))];
    let inventory = known(vec![grant("one", "a"), grant("one", "b"), grant("two", "c")], &devices);
    let of_both = |origin: &str| Demand { resource: Some("r".into()), ..of_claim(origin, "nics", None) };
    let any = |origin: &str| of_claim(origin, "nics", None);
    assert_eq!(ids(&inventory, &[any("1"), of_resource("2", "r")]), ["B", "A"]);
    assert_eq!(
        ids(&inventory, &[any("1"), of_claim("2", "nics", Some("one")), of_resource("3", "r")]),
        ["C", "B", "A"]
    );
    assert_eq!(ids(&inventory, &[any("1"), any("2"), of_both("3")]), ["A", "B", "C"]);
    // If there are too few devices, the first attachments get them.
    let shown = ids(&inventory, &[of_resource("1", "r"), of_resource("2", "r"), of_resource("3", "s")]);
    assert_eq!((shown[0].as_str(), shown[2].as_str()), ("A", "B"));
    assert!(shown[1].contains("taken"), "{}", shown[1]);
}

#[test]
fn no_order_finds_devices_for_more_attachments() {
    const CHOICES: usize = 6;
    let devices =
        [("a", identity("A", "r")), ("b", identity("B", "s")), ("c", identity("C", "r")), ("d", identity("D", ""))];
    let grants = vec![grant("one", "a"), grant("one", "b"), grant("two", "c"), grant("two", "d")];
    let inventory = known(grants, &devices);
    let demand = |origin: usize, choice: usize| {
        let origin = origin.to_string();
        match choice {
            0 => of_claim(&origin, "nics", None),
            1 => of_claim(&origin, "nics", Some("one")),
            2 => of_claim(&origin, "nics", Some("two")),
            3 => of_resource(&origin, "r"),
            4 => of_resource(&origin, "s"),
            _ => Demand { resource: Some("s".into()), ..of_claim(&origin, "nics", None) },
        }
    };
    let without = |assignments: &Assignments| assignments.values().filter(|device| device.is_err()).count();
    for choices in 0..CHOICES.pow(4) {
        let demands: Vec<Demand> =
            (0..4_u32).map(|place| demand(place as usize, choices / CHOICES.pow(place) % CHOICES)).collect();
        let found = without(&inventory.assign(&demands).unwrap());
        if found == 0 {
            continue;
        }
        let mut order: Vec<&Demand> = demands.iter().collect();
        let least = permutations(&mut order, 0, &|order| without(&inventory.round(&demands, order).unwrap()));
        assert_eq!(found, least, "{demands:#?}");
    }
}

/// The smallest result of `count` for any order.
fn permutations<'d>(order: &mut Vec<&'d Demand>, fixed: usize, count: &impl Fn(&[&'d Demand]) -> usize) -> usize {
    if fixed == order.len() {
        return count(order);
    }
    let mut least = usize::MAX;
    for index in fixed..order.len() {
        order.swap(fixed, index);
        least = least.min(permutations(order, fixed + 1, count));
        order.swap(fixed, index);
    }
    least
}

#[test]
fn what_is_wrong_with_a_claim_is_named() {
    let grants = || vec![grant("nic", "a"), grant("other", "b"), grant("gpu", "g")];
    let devices = [("a", identity("A", "r")), ("b", identity("B", "")), ("g", Identity::default())];
    let inventory = known(grants(), &devices);
    let error = |demand: Demand| ids(&inventory, &[demand]).remove(0);
    for (demand, parts) in [
        (of_claim("1", "nic", None), ["claim \"nic\"", "it has nics"]),
        (of_claim("1", "nics", Some("nik")), ["no device for that request", "request \"nic\": nic.example/node-1/a"]),
        (of_claim("1", "nics", Some("gpu")), ["which device ID plugins use", "resource.kubernetes.io/pciBusID"]),
        (
            Demand { resource: Some("s".into()), ..of_claim("1", "nics", Some("nic")) },
            ["resource \"s\"", "resource \"r\""],
        ),
        (
            Demand { device_id: Some("B".into()), ..of_claim("1", "nics", Some("nic")) },
            ["\"B\"", "not one of its devices"],
        ),
        (of_resource("1", "s"), ["no device of resource \"s\"", "nic.example/node-1/g"]),
    ] {
        let error = error(demand);
        assert!(parts.iter().all(|part| error.contains(part)), "{parts:?}: {error}");
    }
    // The definition's resource is compared with that of a device only if the driver names one.
    let demand = Demand { resource: Some("s".into()), ..of_claim("1", "nics", Some("other")) };
    assert_eq!(ids(&inventory, &[demand]), ["B"]);
}

#[test]
fn what_is_not_there_yet_is_to_be_tried_again() {
    use crate::cni::CniError;
    use crate::cni::error::code;
    let mut inventory = Inventory::new(Devices::new(), []);
    let pending = PodClaim { name: "later".into(), object: ClaimObject::Pending };
    let nothing = PodClaim { name: "none".into(), object: ClaimObject::NotNeeded };
    let mut claims = pod(&["nics"]);
    claims.claims.extend([pending, nothing]);
    inventory.add_claims_of_pod(claims);
    inventory.add_grants("web-nics", None);
    let code_of = |demand: Demand| {
        let error = inventory.assign(&[demand]).unwrap().remove("1").unwrap().unwrap_err();
        CniError::from(&error).code
    };
    assert_eq!(code_of(of_claim("1", "later", None)), code::TRY_AGAIN);
    assert_eq!(code_of(of_claim("1", "nics", Some("nic"))), code::TRY_AGAIN);
    assert_eq!(code_of(of_resource("1", "r")), code::TRY_AGAIN);
    assert_eq!(code_of(of_claim("1", "none", None)), code::INVALID_CONFIG);
    for (demand, parts) in [
        (
            of_claim("1", "nics", Some("nic")),
            ["claim \"nics\", request \"nic\"", "\"web-nics\" has no device allocated yet"],
        ),
        (of_resource("1", "r"), ["resource \"r\"", "\"web-nics\" has no device allocated yet"]),
        (of_claim("1", "none", None), ["claim \"none\"", "no ResourceClaim has been made for it"]),
    ] {
        let error = ids(&inventory, &[demand]).remove(0);
        assert!(parts.iter().all(|part| error.contains(part)), "{parts:?}: {error}");
    }
}
